// From XLA's buffers to a Problem: what the handlers of all backends share.

#ifndef JAX_ROIPOOL_CSRC_BUFFERS_H_
#define JAX_ROIPOOL_CSRC_BUFFERS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

struct Handler {
  const char* op;  // the target is "jax_roipool_" + op
  XLA_FFI_Handler* function;
};

using Boxes = xla::ffi::Buffer<xla::ffi::F32>;
using Indices = xla::ffi::Buffer<xla::ffi::S32>;

inline xla::ffi::Error InvalidArgument(std::string message) {
  return xla::ffi::Error(xla::ffi::ErrorCode::kInvalidArgument,
                         "jax_roipool: " + std::move(message));
}

template <typename Buffer>
Shape ShapeOf(const Buffer& buffer) {
  return {buffer.dimensions().begin(),
          static_cast<int64_t>(buffer.dimensions().size())};
}

inline bool ElementOfType(xla::ffi::DataType type, Element* element) {
  switch (type) {
    case xla::ffi::DataType::F16:
      *element = Element::kFloat16;
      return true;
    case xla::ffi::DataType::BF16:
      *element = Element::kBFloat16;
      return true;
    case xla::ffi::DataType::F32:
      *element = Element::kFloat32;
      return true;
    case xla::ffi::DataType::F64:
      *element = Element::kFloat64;
      return true;
    default:
      return false;
  }
}

// The checks that all ops share. `map` is features, tangent or gradient. An
// empty string, or what is wrong.
inline std::string ReadProblem(const xla::ffi::AnyBuffer& map,
                               const Indices& image,
                               const xla::ffi::AnyBuffer& pooled,
                               std::string_view layout, Problem* problem) {
  if (!ElementOfType(map.element_type(), &problem->element) ||
      map.element_type() != pooled.element_type()) {
    return "features and pooled must share one of the types float16, "
           "bfloat16, float32 and float64";
  }
  if (!ParseLayout(layout, &problem->layout)) {
    return "layout must be NHWC or NCHW, got " + std::string(layout);
  }
  return MakeProblem(ShapeOf(map), ShapeOf(image), ShapeOf(pooled), problem);
}

// The further checks of pooling; `argmax` may be null.
inline std::string CheckPool(const Boxes& boxes, const Indices& image,
                             Scale scale, const xla::ffi::AnyBuffer& pooled,
                             const Indices* argmax) {
  std::string wrong = CheckBoxes(ShapeOf(boxes), ShapeOf(image));
  if (wrong.empty()) wrong = CheckScale(scale);
  if (wrong.empty() && argmax != nullptr) {
    wrong = CheckArgmax(ShapeOf(*argmax), ShapeOf(pooled));
  }
  return wrong;
}

// The further checks of the linear ops.
inline std::string ReadLinear(const xla::ffi::AnyBuffer& map,
                              const Indices& image, const Indices& argmax,
                              const xla::ffi::AnyBuffer& pooled,
                              std::string_view layout, Problem* problem) {
  std::string wrong = ReadProblem(map, image, pooled, layout, problem);
  if (wrong.empty()) wrong = CheckArgmax(ShapeOf(argmax), ShapeOf(pooled));
  return wrong;
}

// What handlers are bound to: a backend's context, operands and first result of
// the op; further results; then the op's attributes.

template <typename Context>
auto BindPool() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<xla::ffi::AnyBuffer>()
      .template Arg<Boxes>()
      .template Arg<Indices>()
      .template Ret<xla::ffi::AnyBuffer>();
}
template <typename Binding>
auto WithPoolAttributes(Binding binding) {
  return std::move(binding)
      .template Attr<float>("scale_height")
      .template Attr<float>("scale_width")
      .template Attr<std::string_view>("layout");
}

template <typename Context>
auto BindLinear() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<xla::ffi::AnyBuffer>()
      .template Arg<Indices>()
      .template Arg<Indices>()
      .template Ret<xla::ffi::AnyBuffer>();
}
template <typename Binding>
auto WithLinearAttributes(Binding binding) {
  return std::move(binding).template Attr<std::string_view>("layout");
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_BUFFERS_H_
