// The CUDA handlers of argmax_gather and argmax_scatter; see cuda/handler.h.

#include <string>
#include <utility>

#include "cuda/handler.h"
#include "cuda/stream.h"
#include "ops/argmax/cuda.h"
#include "ops/argmax/handlers.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

ffi::Error RoiGather(Stream stream, ffi::RemainingArgs operands,
                     ffi::Result<ffi::AnyBuffer> pooled,
                     std::string_view layout) {
  return HandleArgmaxGather(
      [&](const ArgmaxGatherCall& call) {
        return OnDevice([&](const Device& device) {
          return ArgmaxGather(call, device, stream);
        });
      },
      operands, *pooled, layout);
}

ffi::Error RoiScatter(Stream stream, ffi::RemainingArgs operands,
                      ffi::RemainingRets results, std::string_view layout) {
  const int64_t levels = static_cast<int64_t>(results.size()) - 1;
  return HandleArgmaxScatter(
      [&](const ArgmaxScatterCall& call) {
        const ffi::AnyBuffer workspace = BufferAt(results, levels);
        int32_t* bounds;
        std::string wrong = ReadNumbers(workspace, "the workspace", &bounds);
        if (wrong.empty() && static_cast<int64_t>(workspace.element_count()) !=
                                 2 * call.rois.count()) {
          wrong = "the workspace needs two numbers for each RoI";
        }
        if (!wrong.empty()) return InvalidArgument(std::move(wrong));
        return OnDevice([&](const Device& device) {
          return ArgmaxScatter(call, bounds, device, stream);
        });
      },
      operands, results, levels, layout);
}

XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather, BindRoiGather<StreamContext>(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kRoiScatter, RoiScatter, BindRoiScatter<StreamContext>(),
                       {ffi::Traits::kCmdBufferCompatible});
const RegisteredHandler registered[] = {{"roi_gather", kRoiGather},
                                        {"roi_scatter", kRoiScatter}};

}  // namespace
}  // namespace jax_roipool::cuda
