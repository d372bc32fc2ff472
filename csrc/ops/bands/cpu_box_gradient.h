// The gradient of boxes.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BOX_GRADIENT_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BOX_GRADIENT_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "ops/bands/cpu_kernels.h"
#include "ops/bands/cpu_lanes.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// Vectors of channels that are done together; each has kSlopes sums.
constexpr int kSlopeVectors = kMaxVectors / 2;

// Of x1, y1, x2, y2: which weights of a row of bins are combined, and which of
// its columns. One of the two is a derivative.
struct Slope {
  int row, column;
};
constexpr Slope kSlopesOfBox[] = {{0, 1}, {1, 0}, {0, 2}, {2, 0}};

// Which weights of a row of bins are not 0 in all of its entries, a bit for
// each.
template <class L>
inline unsigned WeightsOf(const BandsFor<L, kSlopes>& bands, const Range& row) {
  unsigned some = 0;
  for (int32_t e = row.begin; e < row.end; ++e) {
    for (int k = 0; k < kSlopes; ++k) {
      some |= (bands.rows.entries[e].weights[k] != 0 ? 1u : 0u) << k;
    }
  }
  return some;
}

// products[entry][weight] += cotangent * column, over the channels of a block
// and for every entry of the bins of a row. load(bin, v) gives a cotangent.
template <class L, int kVectors, class LoadBin>
inline void AddProducts(const BandsFor<L, kSlopes>& bands, unsigned of_row,
                        int64_t num_bins, const LoadBin& load,
                        const typename L::Number* columns,
                        typename L::Number* products) {
  using V = typename L::V;
  for (int64_t q = 0; q < num_bins; ++q) {
    const Range& column = bands.columns.bins[q];
    if (column.begin == column.end) continue;
    V cotangent[kVectors];
    for (int v = 0; v < kVectors; ++v) cotangent[v] = load(q, v);
    for (int32_t e = column.begin; e < column.end; ++e) {
      const auto* at = columns + bands.columns.entries[e].at *
                                     (int64_t{kSlopes} * kVectors * L::kCount);
      for (int k = 0; k < kSlopes; ++k, at += kVectors * L::kCount) {
        if ((of_row >> k & 1) == 0) continue;
        auto* product = products + (e * kSlopes + k) * L::kCount;
        V sum = Load<V>(product);
        for (int v = 0; v < kVectors; ++v) {
          sum += cotangent[v] * Load<V>(at + v * L::kCount);
        }
        Store(sum, product);
      }
    }
  }
}

// sums[corner] += the products of a row of bins, weighted; where a weight is 0
// there is no term, whatever the cotangent.
template <class L>
inline void AddSlopes(const BandsFor<L, kSlopes>& bands, unsigned of_row,
                      int64_t num_bins, const typename L::Number* products,
                      double* sums) {
  using V = typename L::V;
  V totals[4] = {};
  for (int32_t e = 0; e < bands.columns.bins[num_bins - 1].end; ++e) {
    for (int corner = 0; corner < 4; ++corner) {
      const Slope slope = kSlopesOfBox[corner];
      const auto weight = bands.columns.entries[e].weights[slope.column];
      if (weight == 0 || (of_row >> slope.row & 1) == 0) continue;
      totals[corner] +=
          Load<V>(products + (e * kSlopes + slope.row) * L::kCount) * weight;
    }
  }
  for (int corner = 0; corner < 4; ++corner) {
    for (int i = 0; i < L::kCount; ++i) {
      sums[corner] += static_cast<double>(totals[corner][i]);
    }
  }
}

template <class L>
inline void ClearProducts(const BandsFor<L, kSlopes>& bands, int64_t num_bins,
                          typename L::Number* products) {
  std::memset(products, 0,
              bands.columns.bins[num_bins - 1].end * kSlopes * kVectorBytes);
}

template <class L>
void AddChannelsLast(const BandsBoxGradientCall& call,
                     const BandsFor<L, kSlopes>& bands,
                     const typename L::Storage* map, int64_t width,
                     const typename L::Storage* cotangent,
                     typename L::Number* columns, typename L::Number* products,
                     double* sums) {
  const int64_t channels = call.maps.channels, num_bins = call.bins.width;
  for (int64_t p = 0; p < call.bins.height; ++p) {
    const Range& row = bands.rows.bins[p];
    if (row.begin == row.end) continue;
    const unsigned of_row = WeightsOf<L>(bands, row);
    const auto* cotangents = cotangent + p * num_bins * channels;
    ClearProducts<L>(bands, num_bins, products);
    ForEachBlock<L, kSlopeVectors>(0, channels, [&](auto block, int64_t first) {
      CombineRows<L, kSlopes>(block, bands, row, map + first, width * channels,
                              channels, columns);
      AddProducts<L, block.kVectorCount>(
          bands, of_row, num_bins,
          [&](int64_t q, int v) {
            return block.Load(cotangents + q * channels + first, v);
          },
          columns, products);
    });
    AddSlopes<L>(bands, of_row, num_bins, products, sums);
  }
}

template <class L>
void AddChannelsFirst(const BandsBoxGradientCall& call,
                      const BandsFor<L, kSlopes>& bands,
                      const typename L::Storage* map,
                      const typename L::Storage* end, const Level& level,
                      const typename L::Storage* cotangent,
                      typename L::Number* columns, typename L::Number* tile,
                      typename L::Number* products, double* sums) {
  constexpr int64_t kSide = L::kCount;
  const int64_t bins = call.bins.count(), channels = call.maps.channels;
  const int64_t num_bins = call.bins.width;
  for (int64_t c = 0; c < channels; c += kSide) {
    const int64_t count = c + kSide < channels ? kSide : channels - c;
    const MapPlanes<L> planes{map + c * level.cells(), end, level.cells(),
                              level.width, count};
    TurnCotangent<L>(cotangent + c * bins, count, bins, tile);
    for (int64_t p = 0; p < call.bins.height; ++p) {
      const Range& row = bands.rows.bins[p];
      if (row.begin == row.end) continue;
      const unsigned of_row = WeightsOf<L>(bands, row);
      ClearProducts<L>(bands, num_bins, products);
      CombineRows<L, kSlopes>(planes, bands, row, columns);
      AddProducts<L, 1>(
          bands, of_row, num_bins,
          [&](int64_t q, int) {
            return Load<typename L::V>(tile + (p * num_bins + q) * kSide);
          },
          columns, products);
      AddSlopes<L>(bands, of_row, num_bins, products, sums);
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
  auto* products = static_cast<typename L::Number*>(scratch.products);
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
                           products, sums);
      } else {
        AddChannelsFirst<L>(call, bands, map,
                            map + call.maps.map_size(at.level), level,
                            cotangent, columns, tile, products, sums);
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
