#include "ops/argmax/cpu_plans.h"

#include <algorithm>

namespace jax_roipool::cpu {
namespace {

// What a cell has in scatter's sums: as many lines of the cache as one can have
// without the scratch memory of a thread outgrowing its use, and no power of
// two, at which cells would share a few sets of the cache.
constexpr int64_t kSumsCellBytes = 160;

// Of a map without RoIs, what one unit writes zeros to.
constexpr int64_t kZerosBytes = 1 << 20;

}  // namespace

ArgmaxGatherPlan PlanArgmaxGather(const ArgmaxGatherCall& call,
                                  int64_t threads) {
  ArgmaxGatherPlan plan{};
  plan.rois = SortByMap(call);
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
  plan.rois = SortByMap(call);
  const int64_t channels = call.maps.channels;
  const int64_t element_bytes = ElementBytes(call.maps.element);
  // Gradients are summed in float32 or wider.
  const int64_t sum_bytes = std::max<int64_t>(element_bytes, 4);
  const int64_t unit_channels = std::min(channels, kSumsCellBytes / sum_bytes);
  const bool summed_apart =
      call.maps.layout == Layout::kNHWC || element_bytes < sum_bytes;
  double elements = static_cast<double>(call.rois.count()) *
                    static_cast<double>(call.bins.size());
  for (int64_t map = 0; map < call.maps.count_all(); ++map) {
    const int64_t level = PlaceOf(call.maps, map).level;
    const int64_t numbers = call.maps.map_size(level);
    if (numbers == 0) continue;
    const int64_t first = plan.rois.begin[map], last = plan.rois.begin[map + 1];
    const int64_t all = first < last ? channels : numbers;
    const int64_t step =
        first < last ? unit_channels : kZerosBytes / element_bytes;
    for (int64_t i = 0; i < all; i += step) {
      plan.units.push_back({first, last, i, std::min(i + step, all), map});
    }
    if (first < last && summed_apart) {
      plan.sums = std::max(plan.sums, call.maps.levels[level].cells() *
                                          unit_channels * sum_bytes);
    }
    elements += static_cast<double>(numbers);
  }
  plan.helpers =
      HelpersFor(elements, static_cast<int64_t>(plan.units.size()), threads);
  return plan;
}

}  // namespace jax_roipool::cpu
