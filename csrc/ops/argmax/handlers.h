// What the handlers roi_gather and roi_scatter have in common on all platforms.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_HANDLERS_H_

#include <string>
#include <string_view>
#include <utility>

#include "core/buffers.h"
#include "core/handlers.h"
#include "core/sizes.h"
#include "ops/argmax/calls.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

// Fills the sizes, and what both calls have. `map` is tangent or gradient,
// `pooled` a result or a cotangent. An empty string, or what is wrong.
template <class Call>
std::string ReadArgmaxCall(const xla::ffi::AnyBuffer& map,
                           const Indices& image_index, const Indices& argmax,
                           const xla::ffi::AnyBuffer& pooled,
                           std::string_view layout, Call* call) {
  std::string wrong = ReadSizes(map, image_index, pooled, layout, &call->maps,
                                &call->rois, &call->bins);
  if (wrong.empty()) wrong = CheckArgmax(ShapeOf(argmax), ShapeOf(pooled));
  call->image_index = image_index.typed_data();
  call->argmax = argmax.typed_data();
  return wrong;
}

// run(call), unless the call is wrong or has no results.
template <typename Run>
xla::ffi::Error HandleArgmaxGather(const Run& run,
                                   const xla::ffi::AnyBuffer& tangent,
                                   const Indices& image_index,
                                   const Indices& argmax,
                                   const xla::ffi::AnyBuffer& pooled,
                                   std::string_view layout) {
  return Guarded([&] {
    ArgmaxGatherCall call{};
    std::string wrong =
        ReadArgmaxCall(tangent, image_index, argmax, pooled, layout, &call);
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return xla::ffi::Error::Success();
    call.tangent = tangent.untyped_data();
    call.pooled = pooled.untyped_data();
    return run(call);
  });
}

// The same. `workspace_wrong` is empty, or what is wrong with what a platform
// needs besides.
template <typename Run>
xla::ffi::Error HandleArgmaxScatter(const Run& run,
                                    const xla::ffi::AnyBuffer& cotangent,
                                    const Indices& image_index,
                                    const Indices& argmax,
                                    const xla::ffi::AnyBuffer& gradient,
                                    std::string_view layout,
                                    const char* workspace_wrong = "") {
  return Guarded([&] {
    ArgmaxScatterCall call{};
    std::string wrong =
        ReadArgmaxCall(gradient, image_index, argmax, cotangent, layout, &call);
    if (wrong.empty()) wrong = workspace_wrong;
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (gradient.element_count() == 0) return xla::ffi::Error::Success();
    call.cotangent = cotangent.untyped_data();
    call.gradient = gradient.untyped_data();
    return run(call);
  });
}

// What both are bound to: a platform's context, operands and first result;
// further results; then the attributes.
template <typename Context>
auto BindArgmaxOp() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<xla::ffi::AnyBuffer>()
      .template Arg<Indices>()
      .template Arg<Indices>()
      .template Ret<xla::ffi::AnyBuffer>();
}
template <typename Binding>
auto WithArgmaxAttributes(Binding binding) {
  return std::move(binding).template Attr<std::string_view>("layout");
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_HANDLERS_H_
