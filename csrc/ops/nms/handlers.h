// What the handlers of nms have in common on all platforms.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_HANDLERS_H_

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "core/buffers.h"
#include "core/handlers.h"
#include "ops/nms/call.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

using Boxes = xla::ffi::Buffer<xla::ffi::F32>;
using Indices = xla::ffi::Buffer<xla::ffi::S32>;
using Thresholds = xla::ffi::Buffer<xla::ffi::F32>;

// Whether `shape` has the dimensions of `groups` but for its last `more`.
inline bool HasGroups(Shape shape, Shape groups, int64_t more) {
  if (shape.rank != groups.rank + more) return false;
  for (int64_t i = 0; i < groups.rank; ++i) {
    if (shape.dims[i] != groups.dims[i]) return false;
  }
  return true;
}

// Fills the sizes. An empty string, or what is wrong.
inline std::string ReadNmsSizes(Shape boxes, Shape keys, Shape classes,
                                Shape thresholds, Shape indices,
                                NmsCall* call) {
  const auto last = [](Shape shape) { return shape.dims[shape.rank - 1]; };
  if (!HasGroups(boxes, thresholds, 2) || !HasGroups(keys, thresholds, 1) ||
      !HasGroups(classes, thresholds, 1) ||
      !HasGroups(indices, thresholds, 1) || last(boxes) != 4 ||
      last(keys) != boxes.dims[boxes.rank - 2] || last(classes) != last(keys)) {
    return "shapes disagree: boxes must be [*groups, boxes, 4], keys and "
           "classes [*groups, boxes], thresholds [*groups], indices [*groups, "
           "outputs]";
  }
  call->boxes = last(keys);
  call->outputs = last(indices);
  if (call->boxes < 0 || call->outputs < 0 ||
      call->boxes > std::numeric_limits<int32_t>::max()) {
    return "there must be 0 to 2^31 - 1 boxes and 0 outputs or more, got " +
           std::to_string(call->boxes) + " and " +
           std::to_string(call->outputs);
  }
  call->groups = 1;
  bool fits = true;
  for (int64_t i = 0; i < thresholds.rank; ++i) {
    if (thresholds.dims[i] < 0) return "there are fewer than 0 groups";
    fits = fits && !__builtin_mul_overflow(call->groups, thresholds.dims[i],
                                           &call->groups);
  }
  int64_t bytes;
  for (const int64_t each : {4 * call->boxes, call->outputs}) {
    fits = fits && !__builtin_mul_overflow(call->groups, each, &bytes) &&
           bytes <= std::numeric_limits<int64_t>::max() / 4;
  }
  return fits ? "" : "sizes overflow 64 bits";
}

// run(call), unless the call is wrong or has no results.
template <typename Run>
xla::ffi::Error HandleNms(const Run& run, const Boxes& boxes,
                          const Indices& keys, const Indices& classes,
                          const Thresholds& thresholds, Indices& indices,
                          bool inclusive) {
  return Guarded([&] {
    NmsCall call{};
    std::string wrong =
        ReadNmsSizes(ShapeOf(boxes), ShapeOf(keys), ShapeOf(classes),
                     ShapeOf(thresholds), ShapeOf(indices), &call);
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (indices.element_count() == 0) return xla::ffi::Error::Success();
    call.inclusive = inclusive;
    call.corners = boxes.typed_data();
    call.keys = keys.typed_data();
    call.classes = classes.typed_data();
    call.thresholds = thresholds.typed_data();
    call.indices = indices.typed_data();
    return run(call);
  });
}

// What handlers are bound to: a platform's context, operands and the result;
// further results; then the attribute.
template <typename Context>
auto BindNms() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<Boxes>()
      .template Arg<Indices>()
      .template Arg<Indices>()
      .template Arg<Thresholds>()
      .template Ret<Indices>();
}
template <typename Binding>
auto WithNmsAttributes(Binding binding) {
  return std::move(binding).template Attr<bool>("inclusive");
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_HANDLERS_H_
