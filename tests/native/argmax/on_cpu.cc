#include "argmax/calls.h"
#include "cpu/dispatch.h"
#include "op.h"
#include "ops/argmax/cpu_plans.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

bool Gather(const Call& call, const Arrays& arrays, Way isa) {
  const ArgmaxGatherCall gather = ArgmaxGatherCallOf(call, arrays);
  const cpu::ArgmaxGatherPlan plan =
      cpu::PlanArgmaxGather(gather, call.threads);
  GuardedPlan& memory = PlanMemory();
  cpu::PlannedArgmaxGather planned = plan.Planned(gather);
  planned.order = memory.Guard(plan.rois.order, call.flush);
  planned.map_of = memory.Guard(plan.rois.map_of, call.flush);
  const auto& kernels = cpu::ArgmaxGatherKernelsFor(isa);
  return RunUnits(call, plan, planned,
                  kernels.gather[static_cast<int>(gather.maps.element)],
                  &memory.scratch());
}

bool Scatter(const Call& call, const Arrays& arrays, Way isa) {
  const ArgmaxScatterCall scatter = ArgmaxScatterCallOf(call, arrays);
  const cpu::ArgmaxScatterPlan plan =
      cpu::PlanArgmaxScatter(scatter, call.threads);
  GuardedPlan& memory = PlanMemory();
  cpu::PlannedArgmaxScatter planned = plan.Planned(scatter);
  planned.order = memory.Guard(plan.rois.order, call.flush);
  const auto& kernels = cpu::ArgmaxScatterKernelsFor(isa);
  return RunUnits(call, plan, planned,
                  kernels.scatter[static_cast<int>(scatter.maps.element)],
                  &memory.scratch());
}

const Registered<Runner> gather({"roi_gather", Gather});
const Registered<Runner> scatter({"roi_scatter", Scatter});

}  // namespace
}  // namespace jax_roipool::native
