// The handlers roi_pool and roi_pool_argmax, but for what a platform does with
// a call.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_HANDLERS_H_

#include <string>
#include <string_view>
#include <utility>

#include "core/buffers.h"
#include "core/handlers.h"
#include "core/sizes.h"
#include "ops/max/call.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

// run(context, call), unless the call is wrong or has no results.
template <typename Context, typename Run>
xla::ffi::Error HandleMaxPool(Context& context, const Run& run,
                              const xla::ffi::RemainingArgs& operands,
                              const LevelScales& scale_height,
                              const LevelScales& scale_width,
                              std::string_view layout,
                              const xla::ffi::AnyBuffer& pooled,
                              const xla::ffi::AnyBuffer* argmax) {
  return Guarded([&] {
    const int64_t levels = NumLevels(operands.size(), /*others=*/2);
    if (levels == 0) return InvalidArgument(WrongNumberOfOperands());
    const xla::ffi::AnyBuffer boxes = BufferAt(operands, levels);
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, levels + 1);
    MaxPoolCall call{};
    std::string wrong = ReadRoiCall(operands, levels, layout, operands,
                                    image_index, pooled, &call, call.features);
    if (wrong.empty()) {
      wrong = ReadBoxes(boxes, ShapeOf(image_index), &call.boxes);
    }
    if (wrong.empty()) {
      wrong = ReadScales(scale_height, scale_width, levels, call.scales);
    }
    if (wrong.empty() && argmax != nullptr) {
      wrong = ReadArgmax(*argmax, ShapeOf(pooled), &call.argmax);
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return xla::ffi::Error::Success();
    call.pooled = pooled.untyped_data();
    return run(context, call);
  });
}

// Handlers of a platform. `Context` is bound as XLA's headers have it, `Value`
// is what it is decoded to; kRun(value, call) runs a call.
template <typename Context, typename Value,
          xla::ffi::Error (*kRun)(Value&, const MaxPoolCall&)>
struct MaxPoolHandlers {
  static xla::ffi::Error RoiPool(Value context,
                                 xla::ffi::RemainingArgs operands,
                                 xla::ffi::Result<xla::ffi::AnyBuffer> pooled,
                                 LevelScales scale_height,
                                 LevelScales scale_width,
                                 std::string_view layout) {
    return HandleMaxPool(context, kRun, operands, scale_height, scale_width,
                         layout, *pooled, nullptr);
  }

  static xla::ffi::Error RoiPoolArgmax(
      Value context, xla::ffi::RemainingArgs operands,
      xla::ffi::Result<xla::ffi::AnyBuffer> pooled,
      xla::ffi::Result<xla::ffi::AnyBuffer> argmax, LevelScales scale_height,
      LevelScales scale_width, std::string_view layout) {
    return HandleMaxPool(context, kRun, operands, scale_height, scale_width,
                         layout, *pooled, &*argmax);
  }

  static auto BindRoiPool() { return WithAttributes(Bind()); }
  static auto BindRoiPoolArgmax() {
    return WithAttributes(Bind().template Ret<xla::ffi::AnyBuffer>());
  }

 private:
  static auto Bind() {
    return xla::ffi::Ffi::Bind()
        .Ctx<Context>()
        .RemainingArgs()
        .template Ret<xla::ffi::AnyBuffer>();
  }
  template <typename Binding>
  static auto WithAttributes(Binding binding) {
    return std::move(binding)
        .template Attr<LevelScales>("scale_height")
        .template Attr<LevelScales>("scale_width")
        .template Attr<std::string_view>("layout");
  }
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_HANDLERS_H_
