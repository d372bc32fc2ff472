// The transpose of applying bands: adding cotangents into maps.
//
// A unit owns its rows and channels of a map and adds RoI after RoI, each by
// rows of bins, in their own order: every bit is the same for any number of
// threads. Its cells are few enough to stay in the cache from the zeros that
// they begin as until the last RoI, and each page of the gradient is touched by
// one unit, or by few.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_TRANSPOSE_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_TRANSPOSE_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "ops/bands/cpu_kernels.h"
#include "ops/bands/cpu_lanes.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// columns[place] = the cotangents of a row of bins, spread over the columns
// that they read. load(bin, v) gives a bin's cotangent.
template <class L, int kVectors, class LoadBin>
inline void SpreadColumns(const BandsFor<L, kValue>& bands, int64_t num_bins,
                          const LoadBin& load, typename L::Number* columns) {
  using V = typename L::V;
  constexpr int64_t kWidth = int64_t{kVectors} * L::kCount;
  std::memset(columns, 0, bands.num_columns * kWidth * sizeof(*columns));
  for (int64_t q = 0; q < num_bins; ++q) {
    const Range& column = bands.columns.bins[q];
    if (column.begin == column.end) continue;
    V cotangent[kVectors];
    for (int v = 0; v < kVectors; ++v) cotangent[v] = load(q, v);
    for (int32_t e = column.begin; e < column.end; ++e) {
      const auto& entry = bands.columns.entries[e];
      auto* at = columns + entry.at * kWidth;
      for (int v = 0; v < kVectors; ++v, at += L::kCount) {
        Store(Load<V>(at) + cotangent[v] * entry.weights[0], at);
      }
    }
  }
}

// Entries of a row of bins that are rows of the unit: they are neighbours.
template <class L>
inline Range EntriesOf(const BandsTransposeUnit& unit,
                       const BandsFor<L, kValue>& bands, const Range& row) {
  Range entries{row.begin, row.end};
  while (entries.begin < entries.end &&
         bands.rows.entries[entries.begin].at < unit.row_begin) {
    ++entries.begin;
  }
  while (entries.begin < entries.end &&
         bands.rows.entries[entries.end - 1].at >= unit.row_end) {
    --entries.end;
  }
  return entries;
}

// Sums of a unit's cells; those of whole rows lie side by side.
template <class L>
struct UnitSums {
  typename L::Number* first;
  int64_t plane_stride;  // from channel to channel; channels first
};

template <class L>
void SpreadChannelsLast(const PlannedBandsTranspose& call,
                        const BandsTransposeUnit& unit,
                        const BandsFor<L, kValue>& bands, int64_t width,
                        const typename L::Storage* cotangent,
                        typename L::Number* columns, const UnitSums<L>& sums) {
  using V = typename L::V;
  const int64_t channels = call.maps.channels;
  for (int64_t p = 0; p < call.bins.height; ++p) {
    const Range& row = bands.rows.bins[p];
    const Range entries = EntriesOf<L>(unit, bands, row);
    if (entries.begin >= entries.end) continue;
    const auto* of_row = cotangent + p * call.bins.width * channels;
    ForEachBlock<L, kMaxVectors>(0, channels, [&](auto block, int64_t first) {
      const auto* from = of_row + first;
      SpreadColumns<L, block.kVectorCount>(
          bands, call.bins.width,
          [&](int64_t q, int v) { return block.Load(from + q * channels, v); },
          columns);
      for (int32_t e = entries.begin; e < entries.end; ++e) {
        const auto& entry = bands.rows.entries[e];
        auto* to =
            sums.first + (entry.at - unit.row_begin) * width * channels + first;
        const auto* column = columns;
        for (int32_t place = 0; place < bands.num_columns; ++place) {
          auto* cell = to + bands.column_of[place] * channels;
          for (int v = 0; v < block.kVectorCount; ++v) {
            block.StoreNumbers(
                block.LoadNumbers(cell, v) + Load<V>(column) * entry.weights[0],
                v, cell);
            column += L::kCount;
          }
        }
      }
    });
  }
}

template <class L>
void SpreadChannelsFirst(const PlannedBandsTranspose& call,
                         const BandsTransposeUnit& unit,
                         const BandsFor<L, kValue>& bands, int64_t width,
                         const typename L::Storage* cotangent,
                         typename L::Number* columns, typename L::Number* tile,
                         const UnitSums<L>& sums) {
  using V = typename L::V;
  constexpr int kSide = L::kCount;
  const int64_t bins = call.bins.count();
  const int64_t cells = (unit.row_end - unit.row_begin) * width;
  for (int64_t c = unit.channel_begin; c < unit.channel_end; c += kSide) {
    const int64_t count =
        c + kSide < unit.channel_end ? kSide : unit.channel_end - c;
    auto* const planes =
        sums.first + (c - unit.channel_begin) * sums.plane_stride;
    TurnCotangent<L>(cotangent + c * bins, count, bins, tile);
    for (int64_t p = 0; p < call.bins.height; ++p) {
      const Range& row = bands.rows.bins[p];
      const Range entries = EntriesOf<L>(unit, bands, row);
      if (entries.begin >= entries.end) continue;
      SpreadColumns<L, 1>(
          bands, call.bins.width,
          [&](int64_t q, int) {
            return Load<V>(tile + (p * call.bins.width + q) * kSide);
          },
          columns);
      for (int32_t x = bands.span.begin; x < bands.span.end; x += kSide) {
        V square[kSide] = {};
        const int32_t* places = bands.place_of + (x - bands.span.begin);
        for (int i = 0; i < kSide && x + i < bands.span.end; ++i) {
          if (places[i] >= 0) square[i] = Load<V>(columns + places[i] * kSide);
        }
        TransposeSquare<typename L::Number, kSide>(square);
        for (int32_t e = entries.begin; e < entries.end; ++e) {
          const auto& entry = bands.rows.entries[e];
          const int64_t first = (entry.at - unit.row_begin) * width + x;
          // Beyond the span zeros are added, to cells of this unit alone.
          const int64_t lanes = cells - first < kSide ? cells - first : kSide;
          for (int64_t i = 0; i < count; ++i) {
            auto* at = planes + i * sums.plane_stride + first;
            const V added = square[i] * entry.weights[0];
            if (lanes == kSide) {
              Store(Load<V>(at) + added, at);
            } else {
              StoreFirst(LoadFirst<V>(at, lanes) + added, lanes, at);
            }
          }
        }
      }
    }
  }
}

template <Element kElement>
void Spread(const PlannedBandsTranspose& call, const BandsTransposeUnit& unit,
            const BandsScratch<kValue>& scratch) {
  using L = Lanes<kElement>;
  using Storage = typename L::Storage;
  using Number = typename L::Number;
  const bool last = call.maps.layout == Layout::kNHWC;
  const MapPlace at = PlaceOf(call.maps, unit.map);
  const Level& level = call.maps.levels[at.level];
  const int64_t channels = unit.channel_end - unit.channel_begin;
  const int64_t unit_cells = (unit.row_end - unit.row_begin) * level.width;
  // Pieces of the gradient: all of the unit, or its rows of each channel.
  const int64_t pieces = last ? 1 : channels;
  const int64_t piece = last ? unit_cells * channels : unit_cells;
  Storage* gradient = MapData<Storage>(call.maps, call.gradients, at) +
                      unit.row_begin * level.width * (last ? channels : 1) +
                      (last ? 0 : unit.channel_begin * level.cells());
  UnitSums<L> sums{static_cast<Number*>(scratch.sums), piece};
  if constexpr (L::kDirect) sums = {gradient, level.cells()};
  for (int64_t i = 0; i < pieces; ++i) {
    std::memset(sums.first + i * sums.plane_stride, 0, piece * sizeof(Number));
  }
  auto bands = BandsIn<L>(scratch);
  auto* columns = static_cast<Number*>(scratch.columns);
  auto* tile = static_cast<Number*>(scratch.tile);
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    if (call.rows[i].begin >= unit.row_end ||
        call.rows[i].end <= unit.row_begin) {
      continue;
    }
    const int64_t roi = call.order[i];
    FillBands(call, roi, at.level, &bands);
    if (bands.empty()) continue;
    const auto* cotangent =
        static_cast<const Storage*>(call.cotangent) + roi * call.bins.size();
    if (last) {
      SpreadChannelsLast<L>(call, unit, bands, level.width, cotangent, columns,
                            sums);
    } else {
      SpreadChannelsFirst<L>(call, unit, bands, level.width, cotangent, columns,
                             tile, sums);
    }
  }
  if constexpr (!L::kDirect) {
    for (int64_t i = 0; i < pieces; ++i) {
      const Number* from = sums.first + i * sums.plane_stride;
      Storage* to = gradient + i * level.cells();
      for (int64_t n = 0; n < piece; ++n) {
        to[n] = L::Numbers::Round(from[n]);
      }
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_TRANSPOSE_H_
