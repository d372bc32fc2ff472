// The CUDA handler of nms; see cuda/handler.h.

#include "cuda/handler.h"
#include "cuda/stream.h"
#include "ops/nms/cuda.h"
#include "ops/nms/handlers.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

// What is wrong with a workspace; fills its rows.
std::string ReadNmsWorkspace(const NmsCall& call, Shape order, Shape removed,
                             Shape mask, Shape chosen, Shape groups,
                             int64_t* rows) {
  const int64_t words = NmsWords(call);
  if (HasGroups(order, groups, 1) && HasGroups(removed, groups, 1) &&
      HasGroups(mask, groups, 2) && HasGroups(chosen, groups, 0) &&
      order.dims[groups.rank] == call.boxes &&
      removed.dims[groups.rank] == words && mask.dims[groups.rank] == words) {
    *rows = mask.dims[groups.rank + 1];
    if (*rows > 0 && *rows % kWarp == 0) return "";
  }
  return "the workspace needs [*groups, boxes], [*groups, words], [*groups, "
         "words, rows] and [*groups], with whole words of rows";
}

ffi::Error NmsOnDevice(Stream stream, Boxes boxes, Indices keys,
                       Indices classes, Thresholds thresholds,
                       ffi::Result<Indices> indices, ffi::Result<Indices> order,
                       ffi::Result<Indices> removed, ffi::Result<Indices> mask,
                       ffi::Result<Indices> chosen, bool inclusive) {
  return HandleNms(
      [&](const NmsCall& call) {
        NmsWorkspace workspace{order->typed_data(), removed->typed_data(),
                               mask->typed_data(), chosen->typed_data(), 0};
        std::string wrong = ReadNmsWorkspace(
            call, ShapeOf(*order), ShapeOf(*removed), ShapeOf(*mask),
            ShapeOf(*chosen), ShapeOf(thresholds), &workspace.rows);
        if (!wrong.empty()) return InvalidArgument(std::move(wrong));
        return OnDevice(
            [&](const Device&) { return Nms(call, workspace, stream); });
      },
      boxes, keys, classes, thresholds, *indices, inclusive);
}

XLA_FFI_DEFINE_HANDLER(kNms, NmsOnDevice,
                       WithNmsAttributes(BindNms<StreamContext>()
                                             .Ret<Indices>()
                                             .Ret<Indices>()
                                             .Ret<Indices>()
                                             .Ret<Indices>()),
                       {ffi::Traits::kCmdBufferCompatible});
const RegisteredHandler registered("nms", kNms);

}  // namespace
}  // namespace jax_roipool::cuda
