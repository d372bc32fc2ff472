// The bands of all RoIs, which a small kernel makes in the workspace before
// another reads them: a warp for each axis of a RoI.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_BANDS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_BANDS_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/boxes.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/work.h"
#include "ops/bands/axes.h"
#include "ops/bands/bands.h"
#include "ops/bands/calls.h"
#include "ops/bands/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

// A cell of a bin or, in the transpose, a bin of a cell. Loaded at once.
template <typename W, int kWeights>
struct alignas(sizeof(W) * kWeights == 4 ? 8 : 16) BandEntry {
  using Weight = W;
  static constexpr int kWeightCount = kWeights;

  int32_t at;
  W weights[kWeights];
};

// One axis of a RoI.
template <class Entry>
struct RoiAxis {
  Range* bins;  // the entries of each
  Entry* entries;
  // Of the transpose, the same by cell:
  Range* reach;    // all cells that have bins
  int32_t* cells;  // the first entry of each, and where those of the last end
  Entry* by_cell;

  __device__ Range EntriesOf(int32_t cell) const {
    if (cell < reach->begin || cell >= reach->end) return {0, 0};
    const int32_t* first = cells + (cell - reach->begin);
    return {first[0], first[1]};
  }
};

// Those of all RoIs. W is float or double, as features are summed.
template <typename W, int kWeights, bool kByCell>
class BandsMemory {
 public:
  using Entry = BandEntry<W, kWeights>;

  BandsMemory(const BandsCall& call, void* workspace)
      : bytes_(0), next_(static_cast<unsigned char*>(workspace)) {
    for (const int axis : {0, 1}) {
      const bool rows = axis == 0;
      entry_counts_[axis] = MostEntries(call, rows);
      bin_counts_[axis] = AxisOf(call, rows).bins;
      cell_counts_[axis] = 1;
      for (int i = 0; i < call.maps.num_levels; ++i) {
        const Level& level = call.maps.levels[i];
        cell_counts_[axis] =
            std::max(cell_counts_[axis], AxisOf(call, rows).Extent(level) + 1);
      }
    }
    const int64_t rois = call.rois.count();
    const auto of_both = [&](const int64_t* counts) {
      return rois * (counts[0] + counts[1]);
    };
    Cut(of_both(entry_counts_), &entries_);
    Cut(kByCell ? of_both(entry_counts_) : 0, &by_cell_);
    Cut(of_both(bin_counts_), &bins_);
    Cut(kByCell ? 2 * rois : 0, &reach_);
    Cut(kByCell ? of_both(cell_counts_) : 0, &cells_);
  }

  int64_t bytes() const { return bytes_; }

  __device__ RoiAxis<Entry> Of(int64_t roi, bool rows) const {
    const auto place = [&](const int64_t* counts) {
      return roi * (counts[0] + counts[1]) + (rows ? 0 : counts[0]);
    };
    return {bins_ + place(bin_counts_), entries_ + place(entry_counts_),
            reach_ + 2 * roi + (rows ? 0 : 1), cells_ + place(cell_counts_),
            by_cell_ + place(entry_counts_)};
  }

 private:
  template <typename T>
  void Cut(int64_t count, T** array) {
    *array = reinterpret_cast<T*>(next_ + bytes_);
    bytes_ += count * static_cast<int64_t>(sizeof(T));
  }

  // Of a RoI's rows and columns.
  int64_t entry_counts_[2], bin_counts_[2], cell_counts_[2];
  Entry *entries_, *by_cell_;
  Range *bins_, *reach_;
  int32_t* cells_;
  int64_t bytes_;
  unsigned char* next_;
};

// Of the type that a call's features are summed in.
template <int kWeights, bool kByCell>
int64_t BytesOfBands(const BandsCall& call) {
  return call.maps.element == Element::kFloat64
             ? BandsMemory<double, kWeights, kByCell>(call, nullptr).bytes()
             : BandsMemory<float, kWeights, kByCell>(call, nullptr).bytes();
}

template <typename W, int kWeights, bool kByCell>
struct MakeBandsArguments {
  BandsCall call;
  BandsMemory<W, kWeights, kByCell> memory;
};

template <class Entry>
JAX_ROIPOOL_HOST_DEVICE inline void FillBin(const BandsCall& call, int64_t roi,
                                            int64_t level, bool rows,
                                            int64_t bin,
                                            EntryWriter<Entry>* put) {
  const int64_t extent = AxisOf(call, rows).Extent(call.maps.levels[level]);
  WithAxis(call, roi, level, rows, [&](const auto& bands, const auto& axis) {
    bands.template MakeBin<Entry::kWeightCount>(axis, bin, extent, *put);
  });
}

// The warp's work. Bins are counted first, to lie side by side.
template <class Entry>
__device__ void MakeBins(const BandsCall& call, int64_t roi, bool rows,
                         int lane, const RoiAxis<Entry>& to) {
  const int64_t bins = AxisOf(call, rows).bins;
  const int64_t map = MapOf(call, roi);
  const bool some =
      map >= 0 &&
      (call.wide_boxes ||
       IsFinite(LoadBox(static_cast<const float*>(call.boxes), roi)));
  const int64_t level = some ? PlaceOf(call.maps, map).level : 0;
  for (int64_t bin = lane; bin < bins; bin += kWarp) {
    EntryWriter<Entry> put{nullptr, 0};
    if (some) FillBin(call, roi, level, rows, bin, &put);
    to.bins[bin].end = put.count;
  }
  __syncwarp();
  if (lane == 0) {
    int32_t end = 0;
    for (int64_t bin = 0; bin < bins; ++bin) {
      to.bins[bin].begin = end;
      end += to.bins[bin].end;
      to.bins[bin].end = end;
    }
  }
  __syncwarp();
  for (int64_t bin = lane; bin < bins; bin += kWarp) {
    if (to.bins[bin].begin == to.bins[bin].end) continue;
    EntryWriter<Entry> put{to.entries + to.bins[bin].begin, 0};
    FillBin(call, roi, level, rows, bin, &put);
  }
  __syncwarp();
}

// visit(bin, its entry) for the bins of a cell, by rising bin.
template <class Entry, class Visit>
__device__ inline void ForEachBinOf(const RoiAxis<Entry>& axis, int64_t bins,
                                    int32_t cell, const Visit& visit) {
  for (int64_t bin = 0; bin < bins; ++bin) {
    Range left = axis.bins[bin];
    const int32_t end = left.end;
    while (left.begin < left.end) {
      const int32_t middle = (left.begin + left.end) / 2;
      if (axis.entries[middle].at < cell) {
        left.begin = middle + 1;
      } else {
        left.end = middle;
      }
    }
    if (left.begin == end) continue;
    const Entry entry = axis.entries[left.begin];
    if (entry.at == cell) visit(bin, entry);
  }
}

// The bins of each cell, from the cells of each bin: by the warp too.
template <class Entry>
__device__ void SortByCell(int64_t bins, int lane, const RoiAxis<Entry>& axis) {
  constexpr unsigned kAllLanes = 0xffffffffu;
  Range reach{0x7fffffff, 0};
  for (int64_t bin = lane; bin < bins; bin += kWarp) {
    const Range entries = axis.bins[bin];
    if (entries.begin == entries.end) continue;
    const int32_t low = axis.entries[entries.begin].at;
    const int32_t high = axis.entries[entries.end - 1].at + 1;
    reach.begin = low < reach.begin ? low : reach.begin;
    reach.end = high > reach.end ? high : reach.end;
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    const int32_t low = __shfl_sync(kAllLanes, reach.begin, lane ^ half);
    const int32_t high = __shfl_sync(kAllLanes, reach.end, lane ^ half);
    reach.begin = low < reach.begin ? low : reach.begin;
    reach.end = high > reach.end ? high : reach.end;
  }
  if (reach.end == 0) reach.begin = 0;
  if (lane == 0) *axis.reach = reach;
  int32_t before = 0;  // entries of the cells before these
  for (int32_t first = reach.begin; first < reach.end; first += kWarp) {
    const int32_t cell = first + lane;
    int32_t count = 0;
    if (cell < reach.end) {
      ForEachBinOf(axis, bins, cell, [&](int64_t, const Entry&) { ++count; });
    }
    int32_t end = count;
    for (int step = 1; step < kWarp; step *= 2) {
      const int from = lane < step ? lane : lane - step;
      const int32_t more = __shfl_sync(kAllLanes, end, from);
      if (lane >= step) end += more;
    }
    int32_t to = before + end - count;
    before += __shfl_sync(kAllLanes, end, kWarp - 1);
    if (cell >= reach.end) continue;
    axis.cells[cell - reach.begin] = to;
    if (cell + 1 == reach.end) axis.cells[cell + 1 - reach.begin] = to + count;
    ForEachBinOf(axis, bins, cell, [&](int64_t bin, Entry entry) {
      entry.at = static_cast<int32_t>(bin);
      axis.by_cell[to++] = entry;
    });
  }
}

template <typename W, int kWeights, bool kByCell>
__global__ void __launch_bounds__(kThreads, kBandsBlocksTogether)
    MakeBands(const MakeBandsArguments<W, kWeights, kByCell> a) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t count = 2 * a.call.rois.count();
  TakeTurns(CeilDiv(count, kWarps), [&](int64_t item) {
    const int64_t index = item * kWarps + warp;
    if (index >= count) return;
    const int64_t roi = index / 2;
    const bool rows = index % 2 == 0;
    const auto axis = a.memory.Of(roi, rows);
    MakeBins(a.call, roi, rows, lane, axis);
    if constexpr (kByCell) SortByCell(AxisOf(a.call, rows).bins, lane, axis);
  });
}

template <typename W, int kWeights, bool kByCell>
Status LaunchMakeBands(const BandsCall& call,
                       const BandsMemory<W, kWeights, kByCell>& memory,
                       Stream stream) {
  const int64_t items = CeilDiv(2 * call.rois.count(), kWarps);
  if (items == 0) return kSuccess;
  const MakeBandsArguments<W, kWeights, kByCell> a{call, memory};
  return Launch(MakeBands<W, kWeights, kByCell>, BlocksFor(items), kThreads, 0,
                stream, a);
}

}  // namespace
}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_BANDS_H_
