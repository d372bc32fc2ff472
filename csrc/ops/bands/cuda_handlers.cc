// The CUDA handlers of the ops that apply bands; see cuda/handler.h.

#include <cstdint>
#include <string>
#include <utility>

#include "core/buffers.h"
#include "cuda/handler.h"
#include "cuda/stream.h"
#include "cuda/tuning.h"
#include "ops/bands/cuda.h"
#include "ops/bands/handlers.h"

namespace jax_roipool::cuda {
namespace {

namespace ffi = ::xla::ffi;

// The workspace, numbers of any kind, is the last result.
template <class Call>
ffi::Error Run(Stream& stream, const Call& call,
               const ffi::RemainingRets& results) {
  const ffi::AnyBuffer workspace =
      BufferAt(results, static_cast<int64_t>(results.size()) - 1);
  int32_t* numbers;
  std::string wrong = ReadNumbers(workspace, "the workspace", &numbers);
  const int64_t bytes = BandsWorkspace(call);
  if (wrong.empty() && static_cast<int64_t>(workspace.size_bytes()) < bytes) {
    wrong = "the workspace needs " + std::to_string(bytes) + " bytes";
  }
  if (wrong.empty() &&
      reinterpret_cast<uintptr_t>(numbers) % kVectorBytes != 0) {
    wrong = "the workspace must be aligned";
  }
  if (!wrong.empty()) return InvalidArgument(std::move(wrong));
  return OnDevice(
      [&](const Device&) { return RunBands(call, numbers, stream); });
}

using Handlers = BandsHandlers<StreamContext, Stream, Run<BandsApplyCall>,
                               Run<BandsTransposeCall>,
                               Run<BandsBoxGradientCall>, /*kWorkspaces=*/1>;
XLA_FFI_DEFINE_HANDLER(kAveragePool, Handlers::AveragePool, Handlers::Bind(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kAveragePoolTranspose, Handlers::AveragePoolTranspose,
                       Handlers::Bind(), {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kAlign, Handlers::Align, Handlers::BindAlign(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kAlignTranspose, Handlers::AlignTranspose,
                       Handlers::BindAlign(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kAlignBoxGradient, Handlers::AlignBoxGradient,
                       Handlers::BindAlign(),
                       {ffi::Traits::kCmdBufferCompatible});
const RegisteredHandler registered[] = {
    {"roi_average_pool", kAveragePool},
    {"roi_average_pool_transpose", kAveragePoolTranspose},
    {"roi_align", kAlign},
    {"roi_align_transpose", kAlignTranspose},
    {"roi_align_box_gradient", kAlignBoxGradient},
};

}  // namespace
}  // namespace jax_roipool::cuda
