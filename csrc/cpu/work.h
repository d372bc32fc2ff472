// Dividing a call into units of work, before any kernel runs.

#ifndef JAX_ROIPOOL_CSRC_CPU_WORK_H_
#define JAX_ROIPOOL_CSRC_CPU_WORK_H_

#include <cstdint>
#include <vector>

#include "core/sizes.h"

namespace jax_roipool::cpu {

// RoIs by the map that they read. RoIs and maps are counted through, as in
// core/sizes.h.
struct RoisByMap {
  std::vector<int64_t> map_of;  // RoI -> map, -1 where it is empty
  std::vector<int64_t> order;   // RoIs by map, within a map as they came, the
                                // empty ones last
  std::vector<int64_t> begin;   // map -> its first place in `order`; then the
                                // empty ones', then the end
};

// Sorts the RoIs, by counting. Empty are those that read no map, and where
// there are `boxes` those whose box is not finite.
RoisByMap SortByMap(const RoiCall& call, const float* boxes = nullptr);

// Into how many units a call should be cut: several per thread, so that a slow
// one does not hold up the end.
int64_t PartsFor(int64_t threads);

// How many threads are worth waking beside the caller's for `units` that read
// or write so many elements in all.
int64_t HelpersFor(double elements, int64_t units, int64_t threads);

// Cuts [begin, end) into about `parts` ranges of equal cost: put(begin, end)
// for each of them, cost(i) being a number for each place.
template <typename Cost, typename Put>
void CutByCost(int64_t begin, int64_t end, int64_t parts, const Cost& cost,
               const Put& put) {
  double total = 0;
  for (int64_t i = begin; i < end; ++i) total += cost(i);
  const double share = total / static_cast<double>(parts);
  double sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    sum += cost(i);
    if (sum >= share || i + 1 == end) {
      put(begin, i + 1);
      begin = i + 1;
      sum = 0;
    }
  }
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_WORK_H_
