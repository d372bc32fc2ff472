// The bands of a call's RoIs along each axis: host and device code.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_AXES_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_AXES_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/host_device.h"
#include "core/sizes.h"
#include "ops/bands/bands.h"
#include "ops/bands/calls.h"

namespace jax_roipool {
namespace {

// One axis of a call: rows or columns.
struct CallAxis {
  AxisRule rule;
  int64_t bins;
  int corner;  // the lower one's place in a box

  JAX_ROIPOOL_HOST_DEVICE int64_t Extent(const Level& level) const {
    return corner == 1 ? level.height : level.width;
  }
  JAX_ROIPOOL_HOST_DEVICE float ScaleOf(const Scale& scale) const {
    return corner == 1 ? scale.height : scale.width;
  }
};
JAX_ROIPOOL_HOST_DEVICE inline CallAxis AxisOf(const BandsCall& call,
                                               bool rows) {
  return rows ? CallAxis{call.rows, call.bins.height, 1}
              : CallAxis{call.columns, call.bins.width, 0};
}

// run(bands, their axis) for one axis of a RoI: the only place that knows which
// bands there are.
template <class Run>
JAX_ROIPOOL_HOST_DEVICE auto WithAxis(const BandsCall& call, int64_t roi,
                                      int64_t level, bool rows,
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

// What a bin is put into: entries of which a weight is not 0 in their own type;
// none are stored where `entries` is null.
template <class Entry>
struct EntryWriter {
  Entry* entries;
  int32_t count;

  JAX_ROIPOOL_HOST_DEVICE void operator()(int32_t cell, const double* weights) {
    Entry entry;
    entry.at = cell;
    bool some = false;
    for (int i = 0; i < Entry::kWeightCount; ++i) {
      entry.weights[i] = static_cast<typename Entry::Weight>(weights[i]);
      some |= entry.weights[i] != 0;
    }
    if (!some) return;
    if (entries != nullptr) entries[count] = entry;
    ++count;
  }
};

// Entries that any RoI may have along an axis: the cells of a sample each, or
// every cell once and those that bins share.
inline int64_t MostEntries(const BandsCall& call, bool rows) {
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

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_AXES_H_
