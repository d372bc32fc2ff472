// Dividing a call of max pooling into units of work.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_PLAN_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_PLAN_H_

#include <cstdint>
#include <vector>

#include "core/sizes.h"
#include "cpu/scratch.h"
#include "ops/max/call.h"
#include "ops/max/cpu_kernels.h"

namespace jax_roipool::cpu {

struct MaxPoolPlan {
  std::vector<int64_t> map_of;
  std::vector<int64_t> order;  // those that share tables, the others as they
                               // came, the empty ones
  std::vector<Range> rows, columns;
  std::vector<MaxPoolUnit> units;
  int64_t helpers;
  // Bytes of scratch memory.
  int64_t keys = 0, indices = 0, pooled = 0, argmax = 0;

  PlannedMaxPool Planned(const MaxPoolCall& call) const;
  MaxPoolScratch CutScratch(ScratchCutter* cutter) const;
};

// The call's boxes and image indices are read here and nowhere else.
MaxPoolPlan PlanMaxPool(const MaxPoolCall& call, int64_t vector_bytes,
                        int64_t threads);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_PLAN_H_
