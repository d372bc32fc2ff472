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
                              const xla::ffi::AnyBuffer& features,
                              const Boxes& boxes, const Indices& image_index,
                              Scale scale, std::string_view layout,
                              const xla::ffi::AnyBuffer& pooled,
                              const Indices* argmax) {
  return Guarded([&] {
    MaxPoolCall call{};
    std::string wrong = ReadSizes(features, image_index, pooled, layout,
                                  &call.maps, &call.rois, &call.bins);
    if (wrong.empty()) {
      wrong = CheckBoxes(ShapeOf(boxes), ShapeOf(image_index));
    }
    if (wrong.empty()) wrong = CheckScale(scale);
    if (wrong.empty() && argmax != nullptr) {
      wrong = CheckArgmax(ShapeOf(*argmax), ShapeOf(pooled));
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return xla::ffi::Error::Success();
    call.scale = scale;
    call.features = features.untyped_data();
    call.boxes = boxes.typed_data();
    call.image_index = image_index.typed_data();
    call.pooled = pooled.untyped_data();
    if (argmax != nullptr) call.argmax = argmax->typed_data();
    return run(context, call);
  });
}

// Handlers of a platform. `Context` is bound as XLA's headers have it, `Value`
// is what it is decoded to; kRun(value, call) runs a call.
template <typename Context, typename Value,
          xla::ffi::Error (*kRun)(Value&, const MaxPoolCall&)>
struct MaxPoolHandlers {
  static xla::ffi::Error RoiPool(Value context, xla::ffi::AnyBuffer features,
                                 Boxes boxes, Indices image_index,
                                 xla::ffi::Result<xla::ffi::AnyBuffer> pooled,
                                 float scale_height, float scale_width,
                                 std::string_view layout) {
    return HandleMaxPool(context, kRun, features, boxes, image_index,
                         {scale_height, scale_width}, layout, *pooled, nullptr);
  }

  static xla::ffi::Error RoiPoolArgmax(
      Value context, xla::ffi::AnyBuffer features, Boxes boxes,
      Indices image_index, xla::ffi::Result<xla::ffi::AnyBuffer> pooled,
      xla::ffi::Result<Indices> argmax, float scale_height, float scale_width,
      std::string_view layout) {
    return HandleMaxPool(context, kRun, features, boxes, image_index,
                         {scale_height, scale_width}, layout, *pooled,
                         &*argmax);
  }

  static auto BindRoiPool() { return WithAttributes(Bind()); }
  static auto BindRoiPoolArgmax() {
    return WithAttributes(Bind().template Ret<Indices>());
  }

 private:
  static auto Bind() {
    return xla::ffi::Ffi::Bind()
        .Ctx<Context>()
        .template Arg<xla::ffi::AnyBuffer>()
        .template Arg<Boxes>()
        .template Arg<Indices>()
        .template Ret<xla::ffi::AnyBuffer>();
  }
  template <typename Binding>
  static auto WithAttributes(Binding binding) {
    return std::move(binding)
        .template Attr<float>("scale_height")
        .template Attr<float>("scale_width")
        .template Attr<std::string_view>("layout");
  }
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_HANDLERS_H_
