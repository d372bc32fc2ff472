// Dividing one call into units of work, before any kernel runs.

#ifndef JAX_ROIPOOL_CSRC_CPU_PLAN_H_
#define JAX_ROIPOOL_CSRC_CPU_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "geometry.h"
#include "problem.h"

namespace jax_roipool::cpu {

struct Plan {
  std::vector<int64_t> map_of;       // RoI -> map, -1 where it is empty
  std::vector<int64_t> order;        // RoIs by map, within a map as they came,
                                     // the empty ones last; pooling: those that
                                     // share tables, the others as they came,
                                     // the empty ones
  std::vector<int64_t> map_begin;    // map -> its first place in `order`;
                                     // then the empty ones', then the end; of
                                     // no meaning once pooling has reordered
  std::vector<Range> rows, columns;  // pool only
  std::vector<Unit> units;
  int64_t helpers = 0;        // threads worth asking for beside the caller's
  int64_t unit_channels = 0;  // scatter: the most channels in a unit
  int64_t table_keys = 0;     // pool: the most vectors of keys in a table
  int64_t table_indices = 0;  // and of indices, where those are wanted
};

// Plans of the four ops. `threads` is what the thread pool has; `boxes` and
// `image` are read here and nowhere else.
Plan PlanPool(const Problem& problem, Scale scale, const float* boxes,
              const int32_t* image, bool argmax, int64_t vector_bytes,
              int64_t threads);
Plan PlanGather(const Problem& problem, const int32_t* image, int64_t threads);
Plan PlanScatter(const Problem& problem, const int32_t* image, int64_t threads);

// What one thread needs for any unit of the plan, in one 64-byte aligned
// block: its size, and the block cut into pieces.
enum class ScratchUse { kNone, kPool, kPoolArgmax, kScatter };
int64_t ScratchBytes(const Problem& problem, const Plan& plan, ScratchUse use);
Scratch MakeScratch(const Problem& problem, const Plan& plan, ScratchUse use,
                    void* block);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_PLAN_H_
