#include "bands/calls.h"
#include "cpu/dispatch.h"
#include "op.h"
#include "ops/bands/cpu_plans.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

template <BandKind kKind>
bool Apply(const Call& call, const Arrays& arrays, Way isa) {
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const BandsApplyCall bands = BandsApplyCallOf(call, arrays, kKind);
  const cpu::BandsApplyPlan plan =
      cpu::PlanBandsApply(bands, kernels, call.threads);
  GuardedPlan& memory = PlanMemory();
  auto planned = plan.Planned(bands);
  planned.order = memory.Guard(plan.rois.order, call.flush);
  planned.map_of = memory.Guard(plan.rois.map_of, call.flush);
  return RunUnits(call, plan, planned,
                  kernels.apply[static_cast<int>(bands.maps.element)],
                  &memory.scratch());
}

template <BandKind kKind>
bool Transpose(const Call& call, const Arrays& arrays, Way isa) {
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const BandsTransposeCall bands = BandsTransposeCallOf(call, arrays, kKind);
  const cpu::BandsTransposePlan plan =
      cpu::PlanBandsTranspose(bands, kernels, call.threads);
  GuardedPlan& memory = PlanMemory();
  auto planned = plan.Planned(bands);
  planned.order = memory.Guard(plan.rois.order, call.flush);
  planned.rows = memory.Guard(plan.rows, call.flush);
  return RunUnits(call, plan, planned,
                  kernels.transpose[static_cast<int>(bands.maps.element)],
                  &memory.scratch());
}

bool BoxGradient(const Call& call, const Arrays& arrays, Way isa) {
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const BandsBoxGradientCall bands = BandsBoxGradientCallOf(call, arrays);
  const cpu::BandsBoxGradientPlan plan =
      cpu::PlanBandsBoxGradient(bands, kernels, call.threads);
  GuardedPlan& memory = PlanMemory();
  auto planned = plan.Planned(bands);
  planned.order = memory.Guard(plan.rois.order, call.flush);
  planned.map_of = memory.Guard(plan.rois.map_of, call.flush);
  return RunUnits(call, plan, planned,
                  kernels.box_gradient[static_cast<int>(bands.maps.element)],
                  &memory.scratch());
}

const Registered<Runner> average_pool({"roi_average_pool",
                                       Apply<BandKind::kMean>});
const Registered<Runner> average_pool_transpose({"roi_average_pool_transpose",
                                                 Transpose<BandKind::kMean>});
const Registered<Runner> align({"roi_align", Apply<BandKind::kAlign>});
const Registered<Runner> align_transpose({"roi_align_transpose",
                                          Transpose<BandKind::kAlign>});
const Registered<Runner> align_box_gradient({"roi_align_box_gradient",
                                             BoxGradient});

}  // namespace
}  // namespace jax_roipool::native
