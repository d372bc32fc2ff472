// The CUDA handlers of max pooling; see cuda/handler.h.

#include "cuda/handler.h"
#include "cuda/stream.h"
#include "ops/max/cuda.h"
#include "ops/max/handlers.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error Run(Stream& stream, const MaxPoolCall& call) {
  return OnDevice(
      [&](const Device& device) { return MaxPool(call, device, stream); });
}

using Handlers = MaxPoolHandlers<StreamContext, Stream, Run>;
XLA_FFI_DEFINE_HANDLER(kRoiPool, Handlers::RoiPool, Handlers::BindRoiPool(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kRoiPoolArgmax, Handlers::RoiPoolArgmax,
                       Handlers::BindRoiPoolArgmax(),
                       {ffi::Traits::kCmdBufferCompatible});
const RegisteredHandler registered[] = {{"roi_pool", kRoiPool},
                                        {"roi_pool_argmax", kRoiPoolArgmax}};

}  // namespace
}  // namespace jax_roipool::cuda
