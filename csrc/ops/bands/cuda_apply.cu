// Applying bands to maps: of each row of a bin the columns first, so that a
// cell is loaded once for each bin that reads it.
//
// Channels last, the lanes of a group have neighbouring vectors of channels and
// take bins in turn; large bins are shared by all groups of a block, each with
// every so manieth row, and put together in shared memory. Channels first, a
// warp takes a row of bins, its lanes the columns that these read, and adds up
// its bins in shared memory.

#include <cstdint>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/work.h"
#include "ops/bands/calls.h"
#include "ops/bands/cuda.h"
#include "ops/bands/cuda_bands.h"
#include "ops/bands/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

// item = (RoI, part of its bins, part of its channels), or of its channels and
// rows of bins.
template <typename Number>
struct ApplyArguments {
  BandsApplyCall call;
  BandsMemory<Number, kValue, false> memory;
  int64_t items, parts, bin_parts;
  int lanes;  // of a group
};

// A RoI's map, or any where it has none, and no entries either.
template <typename T>
struct RoiMap {
  const T* cells;
  int64_t width, plane;

  __device__ RoiMap(const BandsApplyCall& call, int64_t roi) {
    const int64_t map = MapOf(call, roi);
    const MapPlace at = map < 0 ? MapPlace{0, 0} : PlaceOf(call.maps, map);
    const Level& level = call.maps.levels[at.level];
    cells = MapData<const T>(call.maps, call.features, at);
    width = level.width;
    plane = level.cells();
  }
};

// sums[v] += sums of the block's other groups, in those of the first one.
template <int kVector, typename Number>
__device__ void AddGroups(int group, int groups, int lanes, Number* sums) {
  auto* shared = reinterpret_cast<Number*>(SharedMemory()) + threadIdx.x;
  for (int v = 0; v < kVector; ++v) shared[v * kThreads] = sums[v];
  __syncthreads();
  for (int half = groups / 2; half > 0; half /= 2) {
    if (group < half) {
      for (int v = 0; v < kVector; ++v) {
        sums[v] += shared[v * kThreads + half * lanes];
        shared[v * kThreads] = sums[v];
      }
    }
    __syncthreads();
  }
}

template <Element kElement, int kVector>
__global__ void __launch_bounds__(kThreads, kBandsBlocksTogether)
    ApplyChannelsLast(
        const ApplyArguments<typename ElementOf<kElement>::Number> a) {
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;
  const BandsApplyCall& call = a.call;
  const int64_t channels = call.maps.channels, bins = call.bins.count();
  const int lane = threadIdx.x % a.lanes, group = threadIdx.x / a.lanes;
  const int groups = kThreads / a.lanes;
  TakeTurns(a.items, [&](int64_t item) {
    const Division part = Divide(item, a.parts);
    const Division bin_part = Divide(part.quotient, a.bin_parts);
    const int64_t roi = bin_part.quotient;
    const int64_t channel =
        (part.remainder * a.lanes + lane) * int64_t{kVector};
    const int64_t begin = bin_part.remainder * groups * kBandsBinsPerGroup;
    int64_t end = begin + int64_t{groups} * kBandsBinsPerGroup;
    if (end > bins) end = bins;

    const auto rows = a.memory.Of(roi, true), columns = a.memory.Of(roi, false);
    const RoiMap<T> map(call, roi);
    const T* cells = map.cells + channel;
    // The same for all bins of the RoI, so that no barrier is missed.
    const int64_t entries = int64_t{rows.bins[call.bins.height - 1].end} *
                            columns.bins[call.bins.width - 1].end;
    const bool together = groups > 1 && entries >= kBandsSharedCells * bins;
    const int first = together ? group : 0, step = together ? groups : 1;
    for (int64_t bin = together ? begin : begin + group; bin < end;
         bin += together ? 1 : groups) {
      const Division place = Divide(bin, call.bins.width);
      const Range row = rows.bins[place.quotient];
      const Range column = columns.bins[place.remainder];
      Number sums[kVector] = {};
      if (channel < channels && column.begin < column.end) {
        for (int32_t r = row.begin + first; r < row.end; r += step) {
          const auto of_row = rows.entries[r];
          const T* from = cells + of_row.at * map.width * channels;
          Number inner[kVector] = {};
          JAX_ROIPOOL_UNROLL(4)
          for (int32_t c = column.begin; c < column.end; ++c) {
            const auto entry = columns.entries[c];
            const auto numbers =
                LoadPack<T, kVector>(from + entry.at * channels);
            for (int v = 0; v < kVector; ++v) {
              inner[v] += ElementOf<kElement>::Widen(numbers.values[v]) *
                          entry.weights[0];
            }
          }
          for (int v = 0; v < kVector; ++v) {
            sums[v] += inner[v] * of_row.weights[0];
          }
        }
      }
      if (together) AddGroups<kVector>(group, groups, a.lanes, sums);
      if (channel >= channels || (together && group > 0)) continue;
      Pack<T, kVector> pooled;
      for (int v = 0; v < kVector; ++v) {
        pooled.values[v] = ElementOf<kElement>::Round(sums[v]);
      }
      StorePack(pooled, static_cast<T*>(call.pooled) +
                            (roi * bins + bin) * channels + channel);
    }
  });
}

template <Element kElement>
__global__ void __launch_bounds__(kThreads, kBandsBlocksTogether)
    ApplyChannelsFirst(
        const ApplyArguments<typename ElementOf<kElement>::Number> a) {
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;
  const BandsApplyCall& call = a.call;
  const Bins& bins = call.bins;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  auto* staged =
      reinterpret_cast<Number*>(SharedMemory()) + warp * (kBandsPlanes * kWarp);
  const int64_t tasks = CeilDiv(bins.channels, kBandsPlanes) * bins.height;
  TakeTurns(a.items, [&](int64_t item) {
    const Division part = Divide(item, a.parts);
    const int64_t roi = part.quotient;
    const auto rows = a.memory.Of(roi, true), columns = a.memory.Of(roi, false);
    const RoiMap<T> map(call, roi);
    T* pooled = static_cast<T*>(call.pooled) + roi * bins.size();
    for (int i = 0; i < kBandsRowsPerWarp; ++i) {
      const int64_t task =
          (part.remainder * kBandsRowsPerWarp + i) * kWarps + warp;
      if (task >= tasks) break;
      const Division place = Divide(task, bins.height);
      const int64_t channel = place.quotient * kBandsPlanes;
      const T* planes = map.cells + channel * map.plane;
      const Range row = rows.bins[place.remainder];
      for (int64_t q = 0; q < bins.width; q += kWarp) {
        const int64_t last = q + kWarp < bins.width ? q + kWarp : bins.width;
        const int32_t end = columns.bins[last - 1].end;
        Range mine{0, 0};
        if (q + lane < last) mine = columns.bins[q + lane];
        Number sums[kBandsPlanes] = {};
        for (int32_t c = columns.bins[q].begin; c < end; c += kWarp) {
          Number numbers[kBandsPlanes] = {};
          if (c + lane < end) {
            const auto entry = columns.entries[c + lane];
            for (int32_t r = row.begin; r < row.end; ++r) {
              const auto of_row = rows.entries[r];
              const T* cell = planes + of_row.at * map.width + entry.at;
              for (int k = 0; k < kBandsPlanes; ++k) {
                if (channel + k >= bins.channels) continue;
                numbers[k] += ElementOf<kElement>::Widen(cell[k * map.plane]) *
                              of_row.weights[0];
              }
            }
            for (int k = 0; k < kBandsPlanes; ++k) {
              numbers[k] *= entry.weights[0];
            }
          }
          for (int k = 0; k < kBandsPlanes; ++k) {
            staged[k * kWarp + lane] = numbers[k];
          }
          __syncwarp();
          const int32_t from = mine.begin > c ? mine.begin - c : 0;
          const int32_t to = mine.end < c + kWarp ? mine.end - c : kWarp;
          for (int32_t e = from; e < to; ++e) {
            for (int k = 0; k < kBandsPlanes; ++k) {
              sums[k] += staged[k * kWarp + e];
            }
          }
          __syncwarp();
        }
        if (q + lane >= last) continue;
        T* target =
            pooled + channel * bins.count() + place.remainder * bins.width + q;
        for (int k = 0; k < kBandsPlanes; ++k) {
          if (channel + k >= bins.channels) continue;
          target[k * bins.count() + lane] = ElementOf<kElement>::Round(sums[k]);
        }
      }
    }
  });
}

template <Element kElement, int kVector>
Status LaunchChannelsLast(
    ApplyArguments<typename ElementOf<kElement>::Number>* a, Stream stream) {
  const int64_t vectors = CeilDiv(a->call.bins.channels, kVector);
  a->lanes = 1;
  while (a->lanes < kWarp && a->lanes < vectors) a->lanes *= 2;
  const int64_t groups = kThreads / a->lanes;
  a->parts = CeilDiv(vectors, a->lanes);
  a->bin_parts = CeilDiv(a->call.bins.count(), groups * kBandsBinsPerGroup);
  a->items = a->call.rois.count() * a->bin_parts * a->parts;
  return Launch(
      ApplyChannelsLast<kElement, kVector>, BlocksFor(a->items), kThreads,
      kThreads * kVector * sizeof(typename ElementOf<kElement>::Number), stream,
      *a);
}

template <Element kElement>
Status ApplyAs(const BandsApplyCall& call, void* workspace, Stream stream) {
  using Number = typename ElementOf<kElement>::Number;
  ApplyArguments<Number> a{call, {call, workspace}, 0, 0, 0, 0};
  const Status status = LaunchMakeBands(call, a.memory, stream);
  if (status != kSuccess) return status;
  if (call.maps.layout == Layout::kNCHW) {
    const int64_t tasks =
        CeilDiv(call.bins.channels, kBandsPlanes) * call.bins.height;
    a.parts = CeilDiv(tasks, kWarps * kBandsRowsPerWarp);
    a.items = call.rois.count() * a.parts;
    return Launch(ApplyChannelsFirst<kElement>, BlocksFor(a.items), kThreads,
                  kThreads * kBandsPlanes * sizeof(Number), stream, a);
  }
  constexpr int kVector =
      kVectorBytes / sizeof(typename ElementOf<kElement>::Storage);
  if (ChannelsAligned(call.maps, kVector, call.features, {call.pooled})) {
    return LaunchChannelsLast<kElement, kVector>(&a, stream);
  }
  return LaunchChannelsLast<kElement, 1>(&a, stream);
}

}  // namespace

int64_t BandsWorkspace(const BandsApplyCall& call) {
  return BytesOfBands<kValue, false>(call);
}
Status RunBands(const BandsApplyCall& call, void* workspace, Stream stream) {
  return ForElement(call.maps.element, [&](auto tag) {
    return ApplyAs<decltype(tag)::kValue>(call, workspace, stream);
  });
}

}  // namespace jax_roipool::cuda
