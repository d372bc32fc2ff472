// The gradient of boxes.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BOX_GRADIENT_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BOX_GRADIENT_H_

#include <cstdint>

#include "core/sizes.h"
#include "ops/bands/cpu_kernels.h"
#include "ops/bands/cpu_lanes.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// Of x1, y1, x2, y2: which weights of a row of bins are combined, and which of
// its columns. One of the two is a derivative.
struct Slope {
  int row, column;
};
constexpr Slope kSlopesOfBox[] = {{0, 1}, {1, 0}, {0, 2}, {2, 0}};

// Which weights of a bin are not 0 in all of its entries, a bit for each.
template <class Entry>
inline unsigned WeightsOf(const Entry* entries, const Range& bin) {
  unsigned some = 0;
  for (int32_t e = bin.begin; e < bin.end; ++e) {
    for (int k = 0; k < kSlopes; ++k) {
      some |= static_cast<unsigned>(entries[e].weights[k] != 0) << k;
    }
  }
  return some;
}

// sums[corner] += cotangent * slope over a row of bins. load(bin, v) gives a
// bin's cotangent, which is not looked at where there is no slope.
template <class L, int kVectors, class LoadBin>
inline void AddSlopes(const BandsFor<L, kSlopes>& bands, const Range& row,
                      int64_t num_bins, const LoadBin& load,
                      const typename L::Number* columns, double* sums) {
  using V = typename L::V;
  V totals[4] = {};
  const unsigned of_row = WeightsOf(bands.rows.entries, row);
  for (int64_t q = 0; q < num_bins; ++q) {
    const Range& column = bands.columns.bins[q];
    if (column.begin == column.end) continue;
    const unsigned of_column = WeightsOf(bands.columns.entries, column);
    V slopes[4][kVectors] = {};
    for (int32_t e = column.begin; e < column.end; ++e) {
      const auto& entry = bands.columns.entries[e];
      const auto* at =
          columns + entry.at * (int64_t{kSlopes} * kVectors * L::kCount);
      for (int corner = 0; corner < 4; ++corner) {
        const Slope slope = kSlopesOfBox[corner];
        const auto weight = entry.weights[slope.column];
        if (weight == 0) continue;
        for (int v = 0; v < kVectors; ++v) {
          const auto* numbers = at + (slope.row * kVectors + v) * L::kCount;
          slopes[corner][v] += Load<V>(numbers) * weight;
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const V cotangent = load(q, v);
      for (int corner = 0; corner < 4; ++corner) {
        const Slope slope = kSlopesOfBox[corner];
        if ((of_row >> slope.row & of_column >> slope.column & 1) == 0) {
          continue;
        }
        totals[corner] += cotangent * slopes[corner][v];
      }
    }
  }
  for (int corner = 0; corner < 4; ++corner) {
    for (int i = 0; i < L::kCount; ++i) {
      sums[corner] += static_cast<double>(totals[corner][i]);
    }
  }
}

template <class L>
void AddChannelsLast(const BandsBoxGradientCall& call,
                     const BandsFor<L, kSlopes>& bands,
                     const typename L::Storage* map, int64_t width,
                     const typename L::Storage* cotangent,
                     typename L::Number* columns, double* sums) {
  const int64_t channels = call.maps.channels;
  constexpr int kVectors = kMaxVectors / 4;  // each has four sums
  ForEachBlock<L, kVectors>(0, channels, [&](auto block, int64_t first) {
    for (int64_t p = 0; p < call.bins.height; ++p) {
      const Range& row = bands.rows.bins[p];
      if (row.begin == row.end) continue;
      CombineRows<L, kSlopes>(block, bands, row, map + first, width * channels,
                              channels, columns);
      const auto* from = cotangent + p * call.bins.width * channels + first;
      AddSlopes<L, block.kVectorCount>(
          bands, row, call.bins.width,
          [&](int64_t q, int v) { return block.Load(from + q * channels, v); },
          columns, sums);
    }
  });
}

template <class L>
void AddChannelsFirst(const BandsBoxGradientCall& call,
                      const BandsFor<L, kSlopes>& bands,
                      const typename L::Storage* map,
                      const typename L::Storage* end, const Level& level,
                      const typename L::Storage* cotangent,
                      typename L::Number* columns, typename L::Number* tile,
                      double* sums) {
  constexpr int64_t kSide = L::kCount;
  const int64_t bins = call.bins.count(), channels = call.maps.channels;
  for (int64_t c = 0; c < channels; c += kSide) {
    const int64_t count = c + kSide < channels ? kSide : channels - c;
    const MapPlanes<L> planes{map + c * level.cells(), end, level.cells(),
                              level.width, count};
    TurnCotangent<L>(cotangent + c * bins, count, bins, tile);
    for (int64_t p = 0; p < call.bins.height; ++p) {
      const Range& row = bands.rows.bins[p];
      if (row.begin == row.end) continue;
      CombineRows<L, kSlopes>(planes, bands, row, columns);
      AddSlopes<L, 1>(
          bands, row, call.bins.width,
          [&](int64_t q, int) {
            return Load<typename L::V>(tile +
                                       (p * call.bins.width + q) * kSide);
          },
          columns, sums);
    }
  }
}

// One RoI after another, all channels of each: no sum depends on how the call
// was divided.
template <Element kElement>
void BoxGradient(const PlannedBands<BandsBoxGradientCall>& call,
                 const BandsUnit& unit, const BandsScratch<kSlopes>& scratch) {
  using L = Lanes<kElement>;
  using Storage = typename L::Storage;
  auto bands = BandsIn<L>(scratch);
  auto* columns = static_cast<typename L::Number*>(scratch.columns);
  auto* tile = static_cast<typename L::Number*>(scratch.tile);
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    double sums[4] = {};
    if (call.map_of[roi] >= 0) {
      const MapPlace at = PlaceOf(call.maps, call.map_of[roi]);
      FillBands(call, roi, at.level, &bands);
      const Level& level = call.maps.levels[at.level];
      const auto* map = MapData<const Storage>(call.maps, call.features, at);
      const auto* cotangent =
          static_cast<const Storage*>(call.cotangent) + roi * call.bins.size();
      if (bands.empty()) {
        // All of it is 0.
      } else if (call.maps.layout == Layout::kNHWC) {
        AddChannelsLast<L>(call, bands, map, level.width, cotangent, columns,
                           sums);
      } else {
        AddChannelsFirst<L>(call, bands, map,
                            map + call.maps.map_size(at.level), level,
                            cotangent, columns, tile, sums);
      }
    }
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t place = 4 * roi + corner;
      if (call.wide_boxes) {
        static_cast<double*>(call.gradient)[place] = sums[corner];
      } else {
        static_cast<float*>(call.gradient)[place] =
            static_cast<float>(sums[corner]);
      }
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BOX_GRADIENT_H_
