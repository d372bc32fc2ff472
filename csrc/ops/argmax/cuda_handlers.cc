// The CUDA handlers of argmax_gather and argmax_scatter; see cuda/handler.h.

#include "cuda/handler.h"
#include "cuda/stream.h"
#include "ops/argmax/cuda.h"
#include "ops/argmax/handlers.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error RoiGather(Stream stream, ffi::AnyBuffer tangent, Indices image_index,
                     Indices argmax, ffi::Result<ffi::AnyBuffer> pooled,
                     std::string_view layout) {
  return HandleArgmaxGather(
      [&](const ArgmaxGatherCall& call) {
        return OnDevice([&](const Device& device) {
          return ArgmaxGather(call, device, stream);
        });
      },
      tangent, image_index, argmax, *pooled, layout);
}

ffi::Error RoiScatter(Stream stream, ffi::AnyBuffer cotangent,
                      Indices image_index, Indices argmax,
                      ffi::Result<ffi::AnyBuffer> gradient,
                      ffi::Result<Indices> bounds, std::string_view layout) {
  const bool enough =
      bounds->element_count() == 2 * image_index.element_count();
  return HandleArgmaxScatter(
      [&](const ArgmaxScatterCall& call) {
        return OnDevice([&](const Device& device) {
          return ArgmaxScatter(call, bounds->typed_data(), device, stream);
        });
      },
      cotangent, image_index, argmax, *gradient, layout,
      enough ? "" : "the workspace needs two numbers for each RoI");
}

XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather,
                       WithArgmaxAttributes(BindArgmaxOp<StreamContext>()),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(
    kRoiScatter, RoiScatter,
    WithArgmaxAttributes(BindArgmaxOp<StreamContext>().Ret<Indices>()),
    {ffi::Traits::kCmdBufferCompatible});
const RegisteredHandler registered[] = {{"roi_gather", kRoiGather},
                                        {"roi_scatter", kRoiScatter}};

}  // namespace
}  // namespace jax_roipool::cuda
