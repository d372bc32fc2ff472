// Applying bands to maps.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_APPLY_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_APPLY_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "ops/bands/cpu_kernels.h"
#include "ops/bands/cpu_lanes.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// put(v, numbers) for the vectors of one bin, from its row combined.
template <class L, int kVectors, class Put>
inline void CombineColumns(const BandsFor<L, kValue>& bands,
                           const Range& column,
                           const typename L::Number* columns, const Put& put) {
  using V = typename L::V;
  V sums[kVectors] = {};
  for (int32_t e = column.begin; e < column.end; ++e) {
    const auto& entry = bands.columns.entries[e];
    const auto* at = columns + entry.at * (int64_t{kVectors} * L::kCount);
    for (int v = 0; v < kVectors; ++v) {
      sums[v] += Load<V>(at + v * L::kCount) * entry.weights[0];
    }
  }
  for (int v = 0; v < kVectors; ++v) put(v, sums[v]);
}

template <class L>
void ApplyChannelsLast(const PlannedBands<BandsApplyCall>& call,
                       const BandsUnit& unit, const BandsFor<L, kValue>& bands,
                       const typename L::Storage* map, int64_t width,
                       typename L::Number* columns,
                       typename L::Storage* pooled) {
  const int64_t channels = call.maps.channels;
  for (int64_t p = 0; p < call.bins.height; ++p) {
    auto* of_row = pooled + p * call.bins.width * channels;
    ForEachBlock<L, kMaxVectors>(
        unit.channel_begin, unit.channel_end, [&](auto block, int64_t first) {
          CombineRows<L>(block, bands, bands.rows.bins[p], map + first,
                         width * channels, channels, columns);
          for (int64_t q = 0; q < call.bins.width; ++q) {
            CombineColumns<L, block.kVectorCount>(
                bands, bands.columns.bins[q], columns,
                [&](int v, typename L::V numbers) {
                  block.Store(numbers, v, of_row + q * channels + first);
                });
          }
        });
  }
}

template <class L>
void ApplyChannelsFirst(const PlannedBands<BandsApplyCall>& call,
                        const BandsUnit& unit, const BandsFor<L, kValue>& bands,
                        const typename L::Storage* map,
                        const typename L::Storage* end, const Level& level,
                        typename L::Number* columns, typename L::Number* tile,
                        typename L::Storage* pooled) {
  constexpr int64_t kSide = L::kCount;
  const int64_t bins = call.bins.count();
  for (int64_t c = unit.channel_begin; c < unit.channel_end; c += kSide) {
    const int64_t count =
        c + kSide < unit.channel_end ? kSide : unit.channel_end - c;
    const MapPlanes<L> planes{map + c * level.cells(), end, level.cells(),
                              level.width, count};
    auto* to = tile;
    for (int64_t p = 0; p < call.bins.height; ++p) {
      const Range& row = bands.rows.bins[p];
      CombineRows<L, kValue>(planes, bands, row, columns);
      for (int64_t q = 0; q < call.bins.width; ++q, to += kSide) {
        CombineColumns<L, 1>(
            bands, bands.columns.bins[q], columns,
            [&](int, typename L::V numbers) { Store(numbers, to); });
      }
    }
    auto* target = pooled + c * bins;
    Transpose<kSide>(tile, bins, count, kSide,
                     [&](int64_t channel, int64_t bin, typename L::V numbers,
                         int64_t height) {
                       auto* at = target + channel * bins + bin;
                       if (height == kSide) {
                         L::Store(numbers, at);
                       } else {
                         L::StoreFirst(numbers, height, at);
                       }
                     });
  }
}

// pooled = 0 in a unit's channels of one RoI.
template <class L>
void ClearPooled(const BandsApplyCall& call, const BandsUnit& unit,
                 typename L::Storage* pooled) {
  const bool last = call.maps.layout == Layout::kNHWC;
  const int64_t bins = call.bins.count(), channels = call.maps.channels;
  const int64_t count = unit.channel_end - unit.channel_begin;
  const bool whole = count == channels;
  const int64_t pieces = last && !whole ? bins : 1;
  auto* target = pooled + unit.channel_begin * (last ? 1 : bins);
  const size_t bytes = count * bins / pieces * sizeof(*target);
  for (int64_t i = 0; i < pieces; ++i) {
    std::memset(target + i * channels, 0, bytes);
  }
}

template <Element kElement>
void Apply(const PlannedBands<BandsApplyCall>& call, const BandsUnit& unit,
           const BandsScratch<kValue>& scratch) {
  using L = Lanes<kElement>;
  using Storage = typename L::Storage;
  auto bands = BandsIn<L>(scratch);
  auto* columns = static_cast<typename L::Number*>(scratch.columns);
  auto* tile = static_cast<typename L::Number*>(scratch.tile);
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    auto* pooled = static_cast<Storage*>(call.pooled) + roi * call.bins.size();
    if (call.map_of[roi] < 0) {
      ClearPooled<L>(call, unit, pooled);
      continue;
    }
    const MapPlace at = PlaceOf(call.maps, call.map_of[roi]);
    FillBands(call, roi, at.level, &bands);
    if (bands.empty()) {
      ClearPooled<L>(call, unit, pooled);
      continue;
    }
    const Level& level = call.maps.levels[at.level];
    const auto* map = MapData<const Storage>(call.maps, call.features, at);
    if (call.maps.layout == Layout::kNHWC) {
      ApplyChannelsLast<L>(call, unit, bands, map, level.width, columns,
                           pooled);
    } else {
      ApplyChannelsFirst<L>(call, unit, bands, map,
                            map + call.maps.map_size(at.level), level, columns,
                            tile, pooled);
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_APPLY_H_
