// Dividing a call of nms into units of work: one for each group.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CPU_PLAN_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CPU_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpu/scratch.h"
#include "ops/nms/call.h"
#include "ops/nms/cpu_kernels.h"

namespace jax_roipool::cpu {

struct NmsPlan {
  std::vector<NmsUnit> units;
  int64_t helpers;
  int64_t boxes, most_chosen;  // of a group

  NmsScratch CutScratch(ScratchCutter* cutter) const;
};

NmsPlan PlanNms(const NmsCall& call, int64_t threads);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CPU_PLAN_H_
