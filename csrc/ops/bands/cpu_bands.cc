#include "ops/bands/cpu_bands.h"

#include <algorithm>
#include <cstdint>

namespace jax_roipool::cpu {
namespace {

// How many entries there are.
template <typename W, int kWeights>
int32_t FillBand(const BandsCall& call, int64_t roi, int64_t level, bool rows,
                 const Band<W, kWeights>& band) {
  const CallAxis along = AxisOf(call, rows);
  const int64_t extent = along.Extent(call.maps.levels[level]);
  return WithAxis(call, roi, level, rows,
                  [&](const auto& bands, const auto& axis) {
                    EntryWriter<BandEntry<W, kWeights>> put{band.entries, 0};
                    for (int64_t bin = 0; bin < along.bins; ++bin) {
                      const int32_t begin = put.count;
                      bands.template MakeBin<kWeights>(axis, bin, extent, put);
                      band.bins[bin] = {begin, put.count};
                    }
                    return put.count;
                  });
}

}  // namespace

template <typename W, int kWeights>
void FillBands(const BandsCall& call, int64_t roi, int64_t level,
               RoiBands<W, kWeights>* bands) {
  bands->num_columns = 0;
  if (FillBand(call, roi, level, true, bands->rows) == 0) return;
  auto* entries = bands->columns.entries;
  const int32_t count = FillBand(call, roi, level, false, bands->columns);
  if (count == 0) return;
  bands->span = {entries[0].at, entries[0].at + 1};
  for (int32_t i = 1; i < count; ++i) {
    bands->span.begin = std::min(bands->span.begin, entries[i].at);
    bands->span.end = std::max(bands->span.end, entries[i].at + 1);
  }
  std::fill(bands->place_of,
            bands->place_of + (bands->span.end - bands->span.begin), -1);
  for (int32_t i = 0; i < count; ++i) {
    int32_t& place = bands->place_of[entries[i].at - bands->span.begin];
    if (place < 0) {
      place = bands->num_columns++;
      bands->column_of[place] = entries[i].at;
    }
    entries[i].at = place;
  }
}
template void FillBands(const BandsCall&, int64_t, int64_t,
                        RoiBands<float, kValue>*);
template void FillBands(const BandsCall&, int64_t, int64_t,
                        RoiBands<double, kValue>*);
template void FillBands(const BandsCall&, int64_t, int64_t,
                        RoiBands<float, kSlopes>*);
template void FillBands(const BandsCall&, int64_t, int64_t,
                        RoiBands<double, kSlopes>*);

Reach ReachOf(const BandsCall& call, int64_t roi, int64_t level) {
  const auto along = [&](bool rows) {
    const CallAxis axis_of = AxisOf(call, rows);
    return WithAxis(
        call, roi, level, rows, [&](const auto& bands, const auto& axis) {
          return bands.Reach(axis, axis_of.bins,
                             axis_of.Extent(call.maps.levels[level]));
        });
  };
  return {along(true), along(false)};
}

}  // namespace jax_roipool::cpu
