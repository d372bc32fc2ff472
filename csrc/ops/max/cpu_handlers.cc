// The CPU's handlers of max pooling. They answer with an ffi::Error, never with
// a crash: whatever a hand-written program passes in, no memory beyond its
// buffers is touched.

#include "cpu/dispatch.h"
#include "cpu/handler.h"
#include "cpu/huge_pages.h"
#include "ops/max/cpu_kernels.h"
#include "ops/max/cpu_plan.h"
#include "ops/max/handlers.h"

namespace jax_roipool::cpu {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error Run(ffi::ThreadPool& threads, const MaxPoolCall& call) {
  const int64_t results = call.rois.count() * call.bins.size();
  PreferHugePages(call.pooled, results * ElementBytes(call.maps.element));
  if (call.argmax != nullptr) {
    PreferHugePages(call.argmax, results * sizeof(int32_t));
  }
  const MaxPoolKernels& kernels = MaxPoolKernelsFor(CurrentIsa());
  const MaxPoolPlan plan =
      PlanMaxPool(call, kernels.vector_bytes, NumThreads(threads));
  const auto kernel = kernels.pool[static_cast<int>(call.maps.element)];
  return RunPlan(threads, plan, plan.Planned(call), kernel);
}

using Handlers = MaxPoolHandlers<ffi::ThreadPool, ffi::ThreadPool, Run>;
XLA_FFI_DEFINE_HANDLER(kRoiPool, Handlers::RoiPool, Handlers::BindRoiPool());
XLA_FFI_DEFINE_HANDLER(kRoiPoolArgmax, Handlers::RoiPoolArgmax,
                       Handlers::BindRoiPoolArgmax());
const RegisteredHandler registered[] = {{"roi_pool", kRoiPool},
                                        {"roi_pool_argmax", kRoiPoolArgmax}};

}  // namespace
}  // namespace jax_roipool::cpu
