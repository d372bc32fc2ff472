#include "cpu/dispatch.h"
#include "max/calls.h"
#include "op.h"
#include "ops/max/cpu_plan.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

template <bool kArgmax>
bool Run(const Call& call, const Arrays& arrays, Way isa) {
  const auto& kernels = cpu::MaxPoolKernelsFor(isa);
  const MaxPoolCall pool = MaxPoolCallOf(call, arrays, kArgmax);
  const cpu::MaxPoolPlan plan =
      cpu::PlanMaxPool(pool, kernels.vector_bytes, call.threads);
  GuardedPlan& memory = PlanMemory();
  cpu::PlannedMaxPool planned = plan.Planned(pool);
  planned.order = memory.Guard(plan.order, call.flush);
  planned.map_of = memory.Guard(plan.map_of, call.flush);
  planned.rows = memory.Guard(plan.rows, call.flush);
  planned.columns = memory.Guard(plan.columns, call.flush);
  return RunUnits(call, plan, planned,
                  kernels.pool[static_cast<int>(pool.maps.element)],
                  &memory.scratch());
}

const Registered<Runner> pool({"roi_pool", Run<false>});
const Registered<Runner> pool_argmax({"roi_pool_argmax", Run<true>});

}  // namespace
}  // namespace jax_roipool::native
