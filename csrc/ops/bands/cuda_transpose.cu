// The transpose of applying bands: what bins add to each cell.
//
// A block owns a tile of a map and some of its channels, and a thread its cells
// in registers: it asks the RoIs that meet the tile, in their order, and of
// each the bins of its row and of its column, which the workspace has by cell.
// So every cell is written once, by one thread, and its numbers are added in
// the order of RoI and bin however a plane is cut.

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

// How the maps of a level are cut.
struct SpreadLevel {
  int64_t items_end;       // of the items of all levels
  int64_t tiles, columns;  // of a map; of tiles
};

// item = (level, map, tile, part of its channels).
template <typename Number>
struct SpreadArguments {
  BandsTransposeCall call;
  BandsMemory<Number, kValue, true> memory;
  SpreadLevel levels[kMaxLevels];
  int64_t items, parts;
  int lanes;         // that have a cell's channels
  int tile_columns;  // of cells
};

// What a thread adds up: kRows cells below one another, kVector channels of
// each. Channels last, these lie side by side, and so do those of `lanes`
// threads; channels first the columns of a warp do.
template <Element kElement, bool kChannelsLast, int kRows, int kVector>
class Spreading {
 public:
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;

  __device__ explicit Spreading(const SpreadArguments<Number>& a)
      : a_(a),
        channels_(a.call.maps.channels),
        listed_(reinterpret_cast<int32_t*>(SharedMemory())) {}

  __device__ void Run(int64_t item) {
    const Maps& maps = a_.call.maps;
    level_ = 0;
    while (item >= a_.levels[level_].items_end) ++level_;
    if (level_ > 0) item -= a_.levels[level_ - 1].items_end;
    const Division parts = Divide(item, a_.parts);
    const Division tiles = Divide(parts.quotient, a_.levels[level_].tiles);
    const Division tile = Divide(tiles.remainder, a_.levels[level_].columns);
    const Division map = Divide(tiles.quotient, maps.images);
    const int lane = threadIdx.x % a_.lanes, group = threadIdx.x / a_.lanes;
    const int tile_rows = kThreads / a_.lanes / a_.tile_columns * kRows;
    channel_ = (parts.remainder * a_.lanes + lane) * int64_t{kVector};
    tile_row_ = static_cast<int32_t>(tile.quotient * tile_rows);
    tile_column_ = static_cast<int32_t>(tile.remainder * a_.tile_columns);
    row_ = tile_row_ + group / a_.tile_columns * kRows;
    column_ = tile_column_ + group % a_.tile_columns;

    Number sums[kRows][kVector] = {};
    const int64_t per_group = a_.call.rois.per_group;
    const int64_t first = map.quotient * per_group;
    for (int64_t base = 0; base < per_group; base += kSpreadAsked * kThreads) {
      unsigned hits = 0;
      for (int k = 0; k < kSpreadAsked; ++k) {
        const int64_t roi = base + k * kThreads + threadIdx.x;
        const bool hit =
            roi < per_group && Meets(first + roi, map.remainder, tile_rows);
        hits |= static_cast<unsigned>(hit) << k;
      }
      JAX_ROIPOOL_UNROLL(1)
      for (int k = 0; k < kSpreadAsked && base + k * kThreads < per_group;
           ++k) {
        const int count = listed_.Make((hits >> k & 1) != 0);
        if (channel_ < channels_) {
          for (int i = 0; i < count; ++i) {
            Add(first + base + k * kThreads + listed_.threads[i], sums);
          }
        }
        __syncthreads();
      }
    }
    if (channel_ < channels_) Store(tiles.quotient, sums);
  }

 private:
  __device__ bool Meets(int64_t roi, int64_t image, int tile_rows) const {
    if (a_.call.image_index[roi] != image) return false;
    if (a_.call.level != nullptr && a_.call.level[roi] != level_) return false;
    const Range rows = *a_.memory.Of(roi, true).reach;
    const Range columns = *a_.memory.Of(roi, false).reach;
    return rows.begin < tile_row_ + tile_rows && rows.end > tile_row_ &&
           columns.begin < tile_column_ + a_.tile_columns &&
           columns.end > tile_column_;
  }

  __device__ void Add(int64_t roi, Number (*sums)[kVector]) const {
    const auto rows = a_.memory.Of(roi, true);
    const auto columns = a_.memory.Of(roi, false);
    const Range of_column = columns.EntriesOf(column_);
    if (of_column.begin == of_column.end) return;
    const Bins& bins = a_.call.bins;
    const T* cotangent = static_cast<const T*>(a_.call.cotangent) +
                         roi * bins.size() +
                         channel_ * (kChannelsLast ? 1 : bins.count());
    for (int k = 0; k < kRows; ++k) {
      const Range of_row = rows.EntriesOf(row_ + k);
      for (int32_t r = of_row.begin; r < of_row.end; ++r) {
        const auto bin_row = rows.by_cell[r];
        Number inner[kVector] = {};
        for (int32_t c = of_column.begin; c < of_column.end; ++c) {
          const auto entry = columns.by_cell[c];
          T numbers[kVector];
          Load(cotangent, bin_row.at * bins.width + entry.at, numbers);
          for (int v = 0; v < kVector; ++v) {
            inner[v] +=
                ElementOf<kElement>::Widen(numbers[v]) * entry.weights[0];
          }
        }
        for (int v = 0; v < kVector; ++v) {
          sums[k][v] += inner[v] * bin_row.weights[0];
        }
      }
    }
  }

  // The thread's channels of one bin; 0 beyond the last.
  __device__ void Load(const T* cotangent, int64_t bin, T* numbers) const {
    if constexpr (kChannelsLast) {
      const auto pack = LoadPack<T, kVector>(cotangent + bin * channels_);
      for (int v = 0; v < kVector; ++v) numbers[v] = pack.values[v];
    } else {
      for (int v = 0; v < kVector; ++v) {
        numbers[v] = channel_ + v < channels_
                         ? cotangent[v * a_.call.bins.count() + bin]
                         : T{0};
      }
    }
  }

  __device__ void Store(int64_t map, const Number (*sums)[kVector]) const {
    const Level& level = a_.call.maps.levels[level_];
    T* gradient = MapData<T>(a_.call.maps, a_.call.gradients, {level_, map});
    if (column_ >= level.width) return;
    for (int k = 0; k < kRows; ++k) {
      if (row_ + k >= level.height) continue;
      const int64_t cell = (row_ + k) * level.width + column_;
      if constexpr (kChannelsLast) {
        Pack<T, kVector> pack;
        for (int v = 0; v < kVector; ++v) {
          pack.values[v] = ElementOf<kElement>::Round(sums[k][v]);
        }
        StorePack(pack, gradient + cell * channels_ + channel_);
      } else {
        for (int v = 0; v < kVector; ++v) {
          if (channel_ + v >= channels_) continue;
          gradient[(channel_ + v) * level.cells() + cell] =
              ElementOf<kElement>::Round(sums[k][v]);
        }
      }
    }
  }

  const SpreadArguments<Number>& a_;
  const int64_t channels_;
  const ThreadList listed_;
  // Of the item:
  int level_;
  int64_t channel_;
  int32_t tile_row_, tile_column_, row_, column_;
};

template <Element kElement, bool kChannelsLast, int kRows, int kVector>
__global__ void __launch_bounds__(kThreads, kBandsBlocksTogether)
    SpreadBins(const SpreadArguments<typename ElementOf<kElement>::Number> a) {
  Spreading<kElement, kChannelsLast, kRows, kVector> spreading(a);
  TakeTurns(a.items, [&](int64_t item) { spreading.Run(item); });
}

template <Element kElement, bool kChannelsLast, int kRows, int kVector>
Status LaunchSpread(const BandsTransposeCall& call, void* workspace,
                    Stream stream) {
  using Number = typename ElementOf<kElement>::Number;
  SpreadArguments<Number> a{call, {call, workspace}, {}, 0, 0, 1, 0};
  const Status status = LaunchMakeBands(call, a.memory, stream);
  if (status != kSuccess) return status;
  const int64_t vectors = CeilDiv(call.maps.channels, kVector);
  while (kChannelsLast && a.lanes < kWarp && a.lanes < vectors) a.lanes *= 2;
  const int groups = kThreads / a.lanes;
  a.tile_columns = groups < kSpreadColumns ? groups : kSpreadColumns;
  a.parts = CeilDiv(vectors, a.lanes);
  for (int i = 0; i < call.maps.num_levels; ++i) {
    const Level& level = call.maps.levels[i];
    SpreadLevel& cut = a.levels[i];
    cut.columns = CeilDiv(level.width, a.tile_columns);
    cut.tiles =
        cut.columns * CeilDiv(level.height, groups / a.tile_columns * kRows);
    a.items += call.maps.count() * cut.tiles * a.parts;
    cut.items_end = a.items;
  }
  return Launch(SpreadBins<kElement, kChannelsLast, kRows, kVector>,
                BlocksFor(a.items), kThreads,
                ThreadList::kNumbers * sizeof(int32_t), stream, a);
}

template <Element kElement>
Status SpreadAs(const BandsTransposeCall& call, void* workspace,
                Stream stream) {
  if (call.maps.layout == Layout::kNCHW) {
    return LaunchSpread<kElement, false, 1, kSpreadPlanes>(call, workspace,
                                                           stream);
  }
  constexpr int kVector =
      kVectorBytes / sizeof(typename ElementOf<kElement>::Storage);
  if (ChannelsAligned(call.maps, kVector, call.gradients, {call.cotangent})) {
    return LaunchSpread<kElement, true, kSpreadRows, kVector>(call, workspace,
                                                              stream);
  }
  return LaunchSpread<kElement, true, kSpreadRows, 1>(call, workspace, stream);
}

}  // namespace

int64_t BandsWorkspace(const BandsTransposeCall& call) {
  return BytesOfBands<kValue, true>(call);
}
Status RunBands(const BandsTransposeCall& call, void* workspace,
                Stream stream) {
  return ForElement(call.maps.element, [&](auto tag) {
    return SpreadAs<decltype(tag)::kValue>(call, workspace, stream);
  });
}

}  // namespace jax_roipool::cuda
