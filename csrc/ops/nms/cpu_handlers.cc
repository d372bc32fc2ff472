// The CPU's handler of nms; see those of ops/max.

#include "cpu/dispatch.h"
#include "cpu/handler.h"
#include "ops/nms/cpu_kernels.h"
#include "ops/nms/cpu_plan.h"
#include "ops/nms/handlers.h"

namespace jax_roipool::cpu {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error Nms(ffi::ThreadPool threads, Boxes boxes, Indices keys,
               Indices classes, Thresholds thresholds,
               ffi::Result<Indices> indices, bool inclusive) {
  return HandleNms(
      [&](const NmsCall& call) {
        const NmsPlan plan = PlanNms(call, NumThreads(threads));
        return RunPlan(threads, plan, call, NmsKernelsFor(CurrentIsa()).choose);
      },
      boxes, keys, classes, thresholds, *indices, inclusive);
}

XLA_FFI_DEFINE_HANDLER(kNms, Nms,
                       WithNmsAttributes(BindNms<ffi::ThreadPool>()));
const RegisteredHandler registered("nms", kNms);

}  // namespace
}  // namespace jax_roipool::cpu
