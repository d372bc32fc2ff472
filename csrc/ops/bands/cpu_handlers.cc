// The CPU's handlers of the ops that apply bands; see those of ops/max.

#include "core/buffers.h"
#include "cpu/dispatch.h"
#include "cpu/handler.h"
#include "cpu/huge_pages.h"
#include "ops/bands/cpu_kernels.h"
#include "ops/bands/cpu_plans.h"
#include "ops/bands/handlers.h"

namespace jax_roipool::cpu {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error Apply(ffi::ThreadPool& threads, const BandsApplyCall& call,
                 const ffi::RemainingRets&) {
  PreferHugePages(call.pooled, call.rois.count() * call.bins.size() *
                                   ElementBytes(call.maps.element));
  const BandsKernels& kernels = BandsKernelsFor(CurrentIsa());
  const BandsApplyPlan plan =
      PlanBandsApply(call, kernels, NumThreads(threads));
  return RunPlan(threads, plan, plan.Planned(call),
                 kernels.apply[static_cast<int>(call.maps.element)]);
}

ffi::Error Transpose(ffi::ThreadPool& threads, const BandsTransposeCall& call,
                     const ffi::RemainingRets& gradients) {
  for (int level = 0; level < call.maps.num_levels; ++level) {
    PreferHugePages(call.gradients[level],
                    BufferAt(gradients, level).size_bytes());
  }
  const BandsKernels& kernels = BandsKernelsFor(CurrentIsa());
  const BandsTransposePlan plan =
      PlanBandsTranspose(call, kernels, NumThreads(threads));
  return RunPlan(threads, plan, plan.Planned(call),
                 kernels.transpose[static_cast<int>(call.maps.element)]);
}

ffi::Error BoxGradient(ffi::ThreadPool& threads,
                       const BandsBoxGradientCall& call,
                       const ffi::RemainingRets&) {
  const BandsKernels& kernels = BandsKernelsFor(CurrentIsa());
  const BandsBoxGradientPlan plan =
      PlanBandsBoxGradient(call, kernels, NumThreads(threads));
  return RunPlan(threads, plan, plan.Planned(call),
                 kernels.box_gradient[static_cast<int>(call.maps.element)]);
}

using Handlers = BandsHandlers<ffi::ThreadPool, ffi::ThreadPool, Apply,
                               Transpose, BoxGradient>;
XLA_FFI_DEFINE_HANDLER(kAveragePool, Handlers::AveragePool, Handlers::Bind());
XLA_FFI_DEFINE_HANDLER(kAveragePoolTranspose, Handlers::AveragePoolTranspose,
                       Handlers::Bind());
XLA_FFI_DEFINE_HANDLER(kAlign, Handlers::Align, Handlers::BindAlign());
XLA_FFI_DEFINE_HANDLER(kAlignTranspose, Handlers::AlignTranspose,
                       Handlers::BindAlign());
XLA_FFI_DEFINE_HANDLER(kAlignBoxGradient, Handlers::AlignBoxGradient,
                       Handlers::BindAlign());
const RegisteredHandler registered[] = {
    {"roi_average_pool", kAveragePool},
    {"roi_average_pool_transpose", kAveragePoolTranspose},
    {"roi_align", kAlign},
    {"roi_align_transpose", kAlignTranspose},
    {"roi_align_box_gradient", kAlignBoxGradient},
};

}  // namespace
}  // namespace jax_roipool::cpu
