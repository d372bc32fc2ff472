#include "ops/bands/cpu_bands.h"

#include <algorithm>
#include <cstdint>

namespace jax_roipool::cpu {
namespace {

// One axis of a call: rows or columns.
struct CallAxis {
  const AxisRule& rule;
  int64_t bins;
  int corner;  // the lower one's place in a box

  int64_t Extent(const Level& level) const {
    return corner == 1 ? level.height : level.width;
  }
  float ScaleOf(const Scale& scale) const {
    return corner == 1 ? scale.height : scale.width;
  }
};
CallAxis AxisOf(const BandsCall& call, bool rows) {
  return rows ? CallAxis{call.rows, call.bins.height, 1}
              : CallAxis{call.columns, call.bins.width, 0};
}

// run(bands, their axis) for one axis of a RoI: the only place that knows which
// bands there are.
template <class Run>
auto WithAxis(const BandsCall& call, int64_t roi, int64_t level, bool rows,
              const Run& run) {
  const CallAxis along = AxisOf(call, rows);
  const auto run_with = [&](const auto& bands) {
    using Corner = typename std::decay_t<decltype(bands)>::Corner;
    const auto* box = static_cast<const Corner*>(call.boxes) + 4 * roi;
    return run(bands,
               bands.MakeAxis(box[along.corner], box[along.corner + 2],
                              along.ScaleOf(call.scales[level]), along.bins));
  };
  if (call.kind == BandKind::kMean) return run_with(MeanBands{});
  return call.wide_boxes ? run_with(AlignBands<double>{along.rule})
                         : run_with(AlignBands<float>{along.rule});
}

// How many entries there are.
template <typename W, int kWeights>
int32_t FillBand(const BandsCall& call, int64_t roi, int64_t level, bool rows,
                 const Band<W, kWeights>& band) {
  const CallAxis along = AxisOf(call, rows);
  const int64_t extent = along.Extent(call.maps.levels[level]);
  return WithAxis(call, roi, level, rows,
                  [&](const auto& bands, const auto& axis) {
                    int32_t count = 0;
                    const auto put = [&](int32_t cell, const double* weights) {
                      auto& entry = band.entries[count];
                      entry.at = cell;
                      bool some = false;
                      for (int i = 0; i < kWeights; ++i) {
                        entry.weights[i] = static_cast<W>(weights[i]);
                        some |= entry.weights[i] != 0;
                      }
                      count += some;
                    };
                    for (int64_t bin = 0; bin < along.bins; ++bin) {
                      const int32_t begin = count;
                      bands.template MakeBin<kWeights>(axis, bin, extent, put);
                      band.bins[bin] = {begin, count};
                    }
                    return count;
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

int64_t MostEntries(const BandsCall& call, bool rows) {
  const CallAxis along = AxisOf(call, rows);
  int64_t extent = 0;
  for (int i = 0; i < call.maps.num_levels; ++i) {
    extent = std::max(extent, along.Extent(call.maps.levels[i]));
  }
  const bool sampled = call.kind == BandKind::kAlign && along.rule.samples > 0;
  const int64_t per_bin =
      sampled ? std::min(2 * along.rule.samples, extent) : extent;
  // Neighbours share no more cells than that, however they are rounded.
  constexpr int64_t kShared = 8;
  return std::min(along.bins * per_bin, extent + along.bins * kShared);
}

}  // namespace jax_roipool::cpu
