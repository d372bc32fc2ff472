#include "ops/argmax/cpu_plans.h"

#include <algorithm>

namespace jax_roipool::cpu {
namespace {

// What a cell has in scatter's sums: as many lines of the cache as one can have
// without the scratch memory of a thread outgrowing its use, and no power of
// two, at which cells would share a few sets of the cache.
constexpr int64_t kSumsCellBytes = 160;

}  // namespace

ArgmaxGatherPlan PlanArgmaxGather(const ArgmaxGatherCall& call,
                                  int64_t threads) {
  ArgmaxGatherPlan plan{};
  plan.rois = SortByMap(call.maps, call.rois, call.image_index);
  const int64_t rois = call.rois.count();
  CutByCost(
      0, rois, PartsFor(threads), [](int64_t) { return 1.0; },
      [&](int64_t begin, int64_t end) { plan.units.push_back({begin, end}); });
  plan.helpers = HelpersFor(
      static_cast<double>(rois) * static_cast<double>(call.bins.size()),
      static_cast<int64_t>(plan.units.size()), threads);
  return plan;
}

ArgmaxScatterPlan PlanArgmaxScatter(const ArgmaxScatterCall& call,
                                    int64_t threads) {
  ArgmaxScatterPlan plan{};
  plan.rois = SortByMap(call.maps, call.rois, call.image_index);
  const int64_t maps = call.maps.count(), channels = call.maps.channels;
  const int64_t element_bytes = ElementBytes(call.maps.element);
  // Gradients are summed in float32 or wider.
  const int64_t sum_bytes = std::max<int64_t>(element_bytes, 4);
  const int64_t unit_channels = std::min(channels, kSumsCellBytes / sum_bytes);
  for (int64_t map = 0; map < maps; ++map) {
    for (int64_t c = 0; c < channels; c += unit_channels) {
      plan.units.push_back({plan.rois.begin[map], plan.rois.begin[map + 1], c,
                            std::min(c + unit_channels, channels), map});
    }
  }
  if (call.maps.layout == Layout::kNHWC || element_bytes < sum_bytes) {
    plan.sums = call.maps.levels[0].cells() * unit_channels * sum_bytes;
  }
  plan.helpers = HelpersFor(
      static_cast<double>(call.rois.count()) *
              static_cast<double>(call.bins.size()) +
          static_cast<double>(maps) * static_cast<double>(call.maps.map_size()),
      static_cast<int64_t>(plan.units.size()), threads);
  return plan;
}

}  // namespace jax_roipool::cpu
