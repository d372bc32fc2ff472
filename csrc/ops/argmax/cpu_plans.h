// Dividing calls of argmax_gather and argmax_scatter into units of work.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_PLANS_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_PLANS_H_

#include <cstdint>
#include <vector>

#include "cpu/scratch.h"
#include "cpu/work.h"
#include "ops/argmax/calls.h"
#include "ops/argmax/cpu_kernels.h"

namespace jax_roipool::cpu {

struct ArgmaxGatherPlan {
  RoisByMap rois;
  std::vector<ArgmaxGatherUnit> units;
  int64_t helpers;

  PlannedArgmaxGather Planned(const ArgmaxGatherCall& call) const {
    return {call, rois.order.data(), rois.map_of.data()};
  }
  ArgmaxGatherScratch CutScratch(ScratchCutter*) const { return {}; }
};

ArgmaxGatherPlan PlanArgmaxGather(const ArgmaxGatherCall& call,
                                  int64_t threads);

struct ArgmaxScatterPlan {
  RoisByMap rois;
  std::vector<ArgmaxScatterUnit> units;
  int64_t helpers;
  int64_t sums;  // bytes of scratch memory

  PlannedArgmaxScatter Planned(const ArgmaxScatterCall& call) const {
    return {call, rois.order.data()};
  }
  ArgmaxScatterScratch CutScratch(ScratchCutter* cutter) const {
    return {cutter->Cut(sums)};
  }
};

ArgmaxScatterPlan PlanArgmaxScatter(const ArgmaxScatterCall& call,
                                    int64_t threads);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_PLANS_H_
