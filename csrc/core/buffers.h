// From XLA's buffers to sizes: what the handlers of all ops share.
//
// The Read and Check functions return an empty string, or what is wrong.

#ifndef JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_
#define JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "core/sizes.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

using Boxes = xla::ffi::Buffer<xla::ffi::F32>;
using Indices = xla::ffi::Buffer<xla::ffi::S32>;

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

inline std::string WrongTypes() {
  return "features and pooled must share one of the types float16, bfloat16, "
         "float32 and float64";
}

// The levels of a pyramid; a single map is a pyramid of one.
inline std::string ReadMaps(const xla::ffi::AnyBuffer* levels, int num_levels,
                            std::string_view layout, Maps* maps) {
  Shape shapes[kMaxLevels];
  for (int i = 0; i < num_levels && i < kMaxLevels; ++i) {
    if (!ElementOfType(levels[i].element_type(), &maps->element) ||
        levels[i].element_type() != levels[0].element_type()) {
      return WrongTypes();
    }
    shapes[i] = ShapeOf(levels[i]);
  }
  if (!ParseLayout(layout, &maps->layout)) {
    return "layout must be NHWC or NCHW, got " + std::string(layout);
  }
  return MakeMaps(shapes, num_levels, maps);
}

// Sizes of an op that turns maps of one level into bins of as many channels, or
// bins into such maps. `map` is features, tangent or gradient; `pooled` a
// result or a cotangent.
inline std::string ReadSizes(const xla::ffi::AnyBuffer& map,
                             const Indices& image_index,
                             const xla::ffi::AnyBuffer& pooled,
                             std::string_view layout, Maps* maps, Rois* rois,
                             Bins* bins) {
  std::string wrong = ReadMaps(&map, 1, layout, maps);
  if (wrong.empty() && map.element_type() != pooled.element_type()) {
    wrong = WrongTypes();
  }
  const Shape of_index = ShapeOf(image_index);
  if (wrong.empty()) wrong = MakeRois(ShapeOf(map), of_index, rois);
  if (wrong.empty()) wrong = MakeBins(of_index, ShapeOf(pooled), *maps, bins);
  if (wrong.empty()) wrong = CheckSameChannels(*maps, *bins);
  return wrong;
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_BUFFERS_H_
