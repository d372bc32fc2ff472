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

// run(call), unless the call is wrong or has no results.
template <typename Run>
xla::ffi::Error HandleArgmaxGather(const Run& run,
                                   const xla::ffi::RemainingArgs& operands,
                                   const xla::ffi::AnyBuffer& pooled,
                                   std::string_view layout) {
  return Guarded([&] {
    const int64_t levels = NumLevels(operands.size(), /*others=*/2);
    if (levels == 0) return InvalidArgument(WrongNumberOfOperands());
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, levels);
    const xla::ffi::AnyBuffer argmax = BufferAt(operands, levels + 1);
    ArgmaxGatherCall call{};
    std::string wrong = ReadRoiCall(operands, levels, layout, operands,
                                    image_index, pooled, &call, call.tangents);
    if (wrong.empty()) {
      wrong = ReadArgmax(argmax, ShapeOf(pooled), &call.argmax);
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return xla::ffi::Error::Success();
    call.pooled = pooled.untyped_data();
    return run(call);
  });
}

// The same. Gradients come first among `results`, one for each level.
template <typename Run>
xla::ffi::Error HandleArgmaxScatter(const Run& run,
                                    const xla::ffi::RemainingArgs& operands,
                                    const xla::ffi::RemainingRets& results,
                                    int64_t levels, std::string_view layout) {
  return Guarded([&] {
    const size_t num_operands = levels > 1 ? 4 : 3;
    if (levels < 1 || operands.size() != num_operands) {
      return InvalidArgument(WrongNumberOfOperands());
    }
    const xla::ffi::AnyBuffer cotangent = BufferAt(operands, 0);
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, 1);
    ArgmaxScatterCall call{};
    std::string wrong =
        ReadRoiCall(results, levels, layout, operands, image_index, cotangent,
                    &call, call.gradients);
    if (wrong.empty()) {
      wrong =
          ReadArgmax(BufferAt(operands, 2), ShapeOf(cotangent), &call.argmax);
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (call.maps.empty()) return xla::ffi::Error::Success();
    call.cotangent = cotangent.untyped_data();
    return run(call);
  });
}

// What both are bound to: a platform's context, operands, results and then the
// attribute.
template <typename Context>
auto BindRoiGather() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .RemainingArgs()
      .template Ret<xla::ffi::AnyBuffer>()
      .template Attr<std::string_view>("layout");
}
template <typename Context>
auto BindRoiScatter() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .RemainingArgs()
      .RemainingRets()
      .template Attr<std::string_view>("layout");
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_HANDLERS_H_
