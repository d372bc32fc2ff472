// From XLA's buffers to sizes: what the handlers of all ops share.
//
// The Read and Check functions return an empty string, or what is wrong.

#ifndef JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_
#define JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/sizes.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

template <typename Buffer>
Shape ShapeOf(const Buffer& buffer) {
  return {buffer.dimensions().begin(),
          static_cast<int64_t>(buffer.dimensions().size())};
}

// Of operands or results of which a handler takes any number, one that is
// there.
inline xla::ffi::AnyBuffer BufferAt(const xla::ffi::RemainingArgs& operands,
                                    int64_t place) {
  return operands.get<xla::ffi::AnyBuffer>(place).value();
}
inline xla::ffi::AnyBuffer BufferAt(const xla::ffi::RemainingRets& results,
                                    int64_t place) {
  return *results.get<xla::ffi::AnyBuffer>(place).value();
}

// A buffer's numbers, which must be of the type T.
template <typename T>
std::string ReadNumbers(const xla::ffi::AnyBuffer& buffer, const char* name,
                        T** numbers) {
  using Number = std::remove_const_t<T>;
  constexpr bool kFloat = std::is_floating_point_v<Number>;
  static_assert(kFloat || std::is_same_v<Number, int32_t>);
  constexpr xla::ffi::DataType kType = !kFloat               ? xla::ffi::S32
                                       : sizeof(Number) == 4 ? xla::ffi::F32
                                                             : xla::ffi::F64;
  if (buffer.element_type() != kType) {
    return std::string(name) + " must be " + (kFloat ? "float" : "int") +
           std::to_string(8 * sizeof(Number));
  }
  *numbers = static_cast<T*>(buffer.untyped_data());
  return "";
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

inline std::string WrongTypes() {
  return "features and pooled must share one of the types float16, bfloat16, "
         "float32 and float64";
}

// A call's operands are its maps, where the op reads them, `others` of its own,
// and, where there are several levels, `level`. How many levels there are, from
// the number of operands; 0 where none fits.
constexpr int64_t NumLevels(int64_t operands, int64_t others) {
  const int64_t left = operands - others;
  return left == 1 ? 1 : left > 2 ? left - 1 : 0;
}
inline std::string WrongNumberOfOperands() {
  return "wrong number of operands, or of gradients: level must be the last "
         "operand of a call of several levels, and of no other";
}

// A scale of every level: a float32 where there is one, else an array of them.
struct LevelScales {
  xla::ffi::Span<const float> values;
  bool array;
};

inline std::string ReadScales(const LevelScales& height,
                              const LevelScales& width, int64_t num_levels,
                              Scale* scales) {
  for (const LevelScales* each : {&height, &width}) {
    if (each->array != (num_levels > 1) ||
        static_cast<int64_t>(each->values.size()) != num_levels) {
      return "each of " + std::to_string(num_levels) +
             " levels needs a scale, in an array where there are several; "
             "got " +
             std::to_string(each->values.size());
    }
  }
  for (int64_t i = 0; i < num_levels; ++i) {
    scales[i] = {height.values.begin()[i], width.values.begin()[i]};
    std::string wrong = CheckScale(scales[i]);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

// The levels of a pyramid, first among `buffers`; a single map is a pyramid of
// one. `data` has room for kMaxLevels.
template <class Buffers, typename Void>
std::string ReadMaps(const Buffers& buffers, int64_t num_levels,
                     std::string_view layout, Maps* maps, Void** data) {
  Shape shapes[kMaxLevels];
  for (int64_t i = 0; i < num_levels && i < kMaxLevels; ++i) {
    const xla::ffi::AnyBuffer map = BufferAt(buffers, i);
    if (!ElementOfType(map.element_type(), &maps->element) ||
        map.element_type() != BufferAt(buffers, 0).element_type()) {
      return WrongTypes();
    }
    shapes[i] = ShapeOf(map);
    data[i] = map.untyped_data();
  }
  if (!ParseLayout(layout, &maps->layout)) {
    return "layout must be NHWC or NCHW, got " + std::string(layout);
  }
  return MakeMaps(shapes, num_levels, maps);
}

// Which RoIs there are, and which maps they read. `map` is the shape of any
// level, and the call's maps are read already.
inline std::string ReadRois(const xla::ffi::RemainingArgs& operands,
                            const xla::ffi::AnyBuffer& image_index, Shape map,
                            RoiCall* call) {
  std::string wrong =
      ReadNumbers(image_index, "image index", &call->image_index);
  if (wrong.empty()) wrong = MakeRois(map, ShapeOf(image_index), &call->rois);
  if (!wrong.empty() || call->maps.num_levels == 1) return wrong;
  const xla::ffi::AnyBuffer level =
      BufferAt(operands, static_cast<int64_t>(operands.size()) - 1);
  wrong = ReadNumbers(level, "level", &call->level);
  if (wrong.empty()) wrong = CheckLevel(ShapeOf(level), ShapeOf(image_index));
  return wrong;
}

// Everything of an op that turns maps into bins of as many channels, or bins
// into such maps. These, features, tangents or gradients, come first among
// `buffers`; `pooled` is a result or a cotangent.
template <class Buffers, typename Void>
std::string ReadRoiCall(const Buffers& buffers, int64_t num_levels,
                        std::string_view layout,
                        const xla::ffi::RemainingArgs& operands,
                        const xla::ffi::AnyBuffer& image_index,
                        const xla::ffi::AnyBuffer& pooled, RoiCall* call,
                        Void** data) {
  std::string wrong = ReadMaps(buffers, num_levels, layout, &call->maps, data);
  if (!wrong.empty()) return wrong;
  const xla::ffi::AnyBuffer map = BufferAt(buffers, 0);
  if (map.element_type() != pooled.element_type()) return WrongTypes();
  const Shape of_index = ShapeOf(image_index);
  wrong = ReadRois(operands, image_index, ShapeOf(map), call);
  if (wrong.empty()) {
    wrong = MakeBins(of_index, ShapeOf(pooled), call->maps, &call->bins);
  }
  if (wrong.empty()) wrong = CheckSameChannels(call->maps, call->bins);
  return wrong;
}

// Boxes of float or, in ops that have them, of double.
template <typename Float>
std::string ReadBoxes(const xla::ffi::AnyBuffer& boxes, Shape image_index,
                      const Float** numbers) {
  std::string wrong = ReadNumbers(boxes, "boxes", numbers);
  if (wrong.empty()) wrong = CheckBoxes(ShapeOf(boxes), image_index);
  return wrong;
}

// An argmax, operand or result.
template <typename Int>
std::string ReadArgmax(const xla::ffi::AnyBuffer& argmax, Shape pooled,
                       Int** cells) {
  std::string wrong = ReadNumbers(argmax, "argmax", cells);
  if (wrong.empty()) wrong = CheckArgmax(ShapeOf(argmax), pooled);
  return wrong;
}

}  // namespace jax_roipool

// Decoded as handlers bind it: .Attr<LevelScales>(name).
template <>
struct xla::ffi::AttrDecoding<jax_roipool::LevelScales> {
  using Type = jax_roipool::LevelScales;

  static std::optional<Type> Decode(XLA_FFI_AttrType type, void* attribute,
                                    DiagnosticEngine& diagnostic) {
    if (type == XLA_FFI_AttrType_SCALAR) {
      const auto scale =
          AttrDecoding<float>::Decode(type, attribute, diagnostic);
      if (!scale.has_value()) return std::nullopt;
      const void* value = static_cast<XLA_FFI_Scalar*>(attribute)->value;
      return Type{{static_cast<const float*>(value), 1}, false};
    }
    const auto scales =
        AttrDecoding<Span<const float>>::Decode(type, attribute, diagnostic);
    if (!scales.has_value()) return std::nullopt;
    return Type{*scales, true};
  }
};

#endif  // JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_
