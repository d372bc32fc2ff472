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

ffi::Error RoiGather(ffi::ThreadPool threads, ffi::RemainingArgs operands,
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
      operands, *pooled, layout);
}

ffi::Error RoiScatter(ffi::ThreadPool threads, ffi::RemainingArgs operands,
                      ffi::RemainingRets gradients, std::string_view layout) {
  const auto levels = static_cast<int64_t>(gradients.size());
  return HandleArgmaxScatter(
      [&](const ArgmaxScatterCall& call) {
        for (int64_t level = 0; level < levels; ++level) {
          PreferHugePages(call.gradients[level],
                          BufferAt(gradients, level).size_bytes());
        }
        const ArgmaxScatterPlan plan =
            PlanArgmaxScatter(call, NumThreads(threads));
        const auto& kernels = ArgmaxScatterKernelsFor(CurrentIsa());
        const auto kernel =
            kernels.scatter[static_cast<int>(call.maps.element)];
        return RunPlan(threads, plan, plan.Planned(call), kernel);
      },
      operands, gradients, levels, layout);
}

XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather, BindRoiGather<ffi::ThreadPool>());
XLA_FFI_DEFINE_HANDLER(kRoiScatter, RoiScatter,
                       BindRoiScatter<ffi::ThreadPool>());
const RegisteredHandler registered[] = {{"roi_gather", kRoiGather},
                                        {"roi_scatter", kRoiScatter}};

}  // namespace
}  // namespace jax_roipool::cpu
