// A handler reads its buffers into a Problem, checks it and launches kernels on
// XLA's stream. It waits for nothing and allocates nothing, on the host or on
// the device, unless it has an error to tell: so a CUDA graph may record it
// once and replay it. What scatter needs for a workspace is a result of the
// call, which XLA allocates.

#include "cuda/handlers.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "buffers.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/stream.h"
#include "problem.h"
#include "subnormals.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error ErrorOf(Status status) {
  if (status == kSuccess) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kInternal,
                    std::string("jax_roipool: CUDA says: ") + Describe(status));
}

// launch(device), unless the device cannot be asked.
template <typename Launch>
ffi::Error OnDevice(const Launch& launch) {
  Device device;
  const Status status = QueryDevice(&device);
  return ErrorOf(status == kSuccess ? launch(device) : status);
}

ffi::Error PoolInto(Stream stream, const ffi::AnyBuffer& features,
                    const Boxes& boxes, const Indices& image, Scale scale,
                    std::string_view layout, const ffi::AnyBuffer& pooled,
                    const Indices* argmax) {
  const SubnormalsKept subnormals_kept;  // in scales
  PoolCall call{};
  std::string wrong =
      ReadProblem(features, image, pooled, layout, &call.problem);
  if (wrong.empty()) wrong = CheckPool(boxes, image, scale, pooled, argmax);
  if (!wrong.empty()) return InvalidArgument(std::move(wrong));
  if (pooled.element_count() == 0) return ffi::Error::Success();
  call.scale = scale;
  call.features = features.untyped_data();
  call.boxes = boxes.typed_data();
  call.image = image.typed_data();
  call.pooled = pooled.untyped_data();
  if (argmax != nullptr) call.argmax = argmax->typed_data();
  return OnDevice(
      [&](const Device& device) { return Pool(call, device, stream); });
}

ffi::Error RoiPool(Stream stream, ffi::AnyBuffer features, Boxes boxes,
                   Indices image, ffi::Result<ffi::AnyBuffer> pooled,
                   float scale_height, float scale_width,
                   std::string_view layout) {
  return PoolInto(stream, features, boxes, image, {scale_height, scale_width},
                  layout, *pooled, nullptr);
}

ffi::Error RoiPoolArgmax(Stream stream, ffi::AnyBuffer features, Boxes boxes,
                         Indices image, ffi::Result<ffi::AnyBuffer> pooled,
                         ffi::Result<Indices> argmax, float scale_height,
                         float scale_width, std::string_view layout) {
  return PoolInto(stream, features, boxes, image, {scale_height, scale_width},
                  layout, *pooled, &*argmax);
}

ffi::Error RoiGather(Stream stream, ffi::AnyBuffer tangent, Indices image,
                     Indices argmax, ffi::Result<ffi::AnyBuffer> pooled,
                     std::string_view layout) {
  GatherCall call{};
  std::string wrong =
      ReadLinear(tangent, image, argmax, *pooled, layout, &call.problem);
  if (!wrong.empty()) return InvalidArgument(std::move(wrong));
  if (pooled->element_count() == 0) return ffi::Error::Success();
  call.map = tangent.untyped_data();
  call.image = image.typed_data();
  call.argmax = argmax.typed_data();
  call.pooled = pooled->untyped_data();
  return OnDevice(
      [&](const Device& device) { return Gather(call, device, stream); });
}

ffi::Error RoiScatter(Stream stream, ffi::AnyBuffer cotangent, Indices image,
                      Indices argmax, ffi::Result<ffi::AnyBuffer> gradient,
                      ffi::Result<Indices> bounds, std::string_view layout) {
  ScatterCall call{};
  std::string wrong =
      ReadLinear(*gradient, image, argmax, cotangent, layout, &call.problem);
  if (wrong.empty() && bounds->element_count() != 2 * image.element_count()) {
    wrong = "the workspace needs two numbers for each RoI";
  }
  if (!wrong.empty()) return InvalidArgument(std::move(wrong));
  if (gradient->element_count() == 0) return ffi::Error::Success();
  call.pooled = cotangent.untyped_data();
  call.image = image.typed_data();
  call.argmax = argmax.typed_data();
  call.map = gradient->untyped_data();
  call.bounds = bounds->typed_data();
  return OnDevice(
      [&](const Device& device) { return Scatter(call, device, stream); });
}

XLA_FFI_DEFINE_HANDLER(kRoiPool, RoiPool,
                       WithPoolAttributes(BindPool<StreamContext>()),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(
    kRoiPoolArgmax, RoiPoolArgmax,
    WithPoolAttributes(BindPool<StreamContext>().Ret<Indices>()),
    {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather,
                       WithLinearAttributes(BindLinear<StreamContext>()),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(
    kRoiScatter, RoiScatter,
    WithLinearAttributes(BindLinear<StreamContext>().Ret<Indices>()),
    {ffi::Traits::kCmdBufferCompatible});

}  // namespace

const Handler kHandlers[4] = {
    {"roi_pool", kRoiPool},
    {"roi_pool_argmax", kRoiPoolArgmax},
    {"roi_gather", kRoiGather},
    {"roi_scatter", kRoiScatter},
};

}  // namespace jax_roipool::cuda
