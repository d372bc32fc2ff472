// The CPU's handlers of argmax_gather and argmax_scatter; see those of ops/max.

#include "cpu/dispatch.h"
#include "cpu/handler.h"
#include "cpu/huge_pages.h"
#include "ops/argmax/cpu_kernels.h"
#include "ops/argmax/cpu_plans.h"
#include "ops/argmax/handlers.h"

namespace jax_roipool::cpu {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error RoiGather(ffi::ThreadPool threads, ffi::AnyBuffer tangent,
                     Indices image_index, Indices argmax,
                     ffi::Result<ffi::AnyBuffer> pooled,
                     std::string_view layout) {
  return HandleArgmaxGather(
      [&](const ArgmaxGatherCall& call) {
        PreferHugePages(call.pooled, pooled->size_bytes());
        const ArgmaxGatherPlan plan =
            PlanArgmaxGather(call, NumThreads(threads));
        const auto& kernels = ArgmaxGatherKernelsFor(CurrentIsa());
        const auto kernel = kernels.gather[static_cast<int>(call.maps.element)];
        return RunPlan(threads, plan, plan.Planned(call), kernel);
      },
      tangent, image_index, argmax, *pooled, layout);
}

ffi::Error RoiScatter(ffi::ThreadPool threads, ffi::AnyBuffer cotangent,
                      Indices image_index, Indices argmax,
                      ffi::Result<ffi::AnyBuffer> gradient,
                      std::string_view layout) {
  return HandleArgmaxScatter(
      [&](const ArgmaxScatterCall& call) {
        PreferHugePages(call.gradient, gradient->size_bytes());
        const ArgmaxScatterPlan plan =
            PlanArgmaxScatter(call, NumThreads(threads));
        const auto& kernels = ArgmaxScatterKernelsFor(CurrentIsa());
        const auto kernel =
            kernels.scatter[static_cast<int>(call.maps.element)];
        return RunPlan(threads, plan, plan.Planned(call), kernel);
      },
      cotangent, image_index, argmax, *gradient, layout);
}

XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather,
                       WithArgmaxAttributes(BindArgmaxOp<ffi::ThreadPool>()));
XLA_FFI_DEFINE_HANDLER(kRoiScatter, RoiScatter,
                       WithArgmaxAttributes(BindArgmaxOp<ffi::ThreadPool>()));
const RegisteredHandler registered[] = {{"roi_gather", kRoiGather},
                                        {"roi_scatter", kRoiScatter}};

}  // namespace
}  // namespace jax_roipool::cpu
