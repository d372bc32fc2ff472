#include "problem.h"

#include <limits>

#include "geometry.h"

namespace jax_roipool {
namespace {

// float32 counts bins exactly up to here.
constexpr int64_t kMaxBinsPerAxis = int64_t{1} << 24;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

std::string ToString(Shape shape) {
  std::string text = "[";
  for (int64_t i = 0; i < shape.rank; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape.dims[i]);
  }
  return text + "]";
}

// *product *= factor; false where that is no int64. A zero factor stays zero,
// whatever stands beside it.
bool Multiply(int64_t factor, int64_t* product) {
  return !__builtin_mul_overflow(*product, factor, product);
}

bool ProductOf(const int64_t* begin, const int64_t* end, int64_t* product) {
  *product = 1;
  for (const int64_t* dim = begin; dim != end; ++dim) {
    if (*dim == 0) {
      *product = 0;
      return true;
    }
  }
  for (const int64_t* dim = begin; dim != end; ++dim) {
    if (!Multiply(*dim, product)) return false;
  }
  return true;
}

bool SameDims(const int64_t* a, const int64_t* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

bool AllNonNegative(Shape shape) {
  for (int64_t i = 0; i < shape.rank; ++i) {
    if (shape.dims[i] < 0) return false;
  }
  return true;
}

// Whether every byte offset within such an array, and within an int32 argmax
// of its shape, is an int64. The last three dimensions must fit on their own:
// kernels multiply them even where another dimension is zero.
bool OffsetsFit(Shape shape, int64_t element_bytes) {
  const int64_t* end = shape.dims + shape.rank;
  const int64_t width = element_bytes < 4 ? 4 : element_bytes;
  int64_t whole, item;
  return ProductOf(shape.dims, end, &whole) && Multiply(width, &whole) &&
         ProductOf(end - 3, end, &item) && Multiply(width, &item);
}

}  // namespace

bool ParseLayout(std::string_view name, Layout* layout) {
  if (name == "NHWC") {
    *layout = Layout::kNHWC;
    return true;
  }
  if (name == "NCHW") {
    *layout = Layout::kNCHW;
    return true;
  }
  return false;
}

std::string MakeProblem(Shape map, Shape image, Shape pooled,
                        Problem* problem) {
  if (!AllNonNegative(map) || !AllNonNegative(image) ||
      !AllNonNegative(pooled)) {
    return "negative dimension: map " + ToString(map) + ", image " +
           ToString(image) + ", pooled " + ToString(pooled);
  }
  if (map.rank < 4) {
    return "the map needs at least 4 dimensions, got " + ToString(map);
  }
  const int64_t group_rank = map.rank - 4;
  if (image.rank < group_rank || pooled.rank != image.rank + 3 ||
      !SameDims(map.dims, image.dims, group_rank) ||
      !SameDims(image.dims, pooled.dims, image.rank)) {
    return "shapes disagree: map " + ToString(map) + ", image " +
           ToString(image) + ", pooled " + ToString(pooled);
  }
  const int64_t* map_dims = map.dims + group_rank;
  const int64_t* pooled_dims = pooled.dims + image.rank;
  const bool last = problem->layout == Layout::kNHWC;
  problem->images = map_dims[0];
  problem->height = map_dims[last ? 1 : 2];
  problem->width = map_dims[last ? 2 : 3];
  problem->channels = map_dims[last ? 3 : 1];
  problem->pooled_height = pooled_dims[last ? 0 : 1];
  problem->pooled_width = pooled_dims[last ? 1 : 2];
  const int64_t pooled_channels = pooled_dims[last ? 2 : 0];
  if (pooled_channels != problem->channels) {
    return "the map has " + std::to_string(problem->channels) +
           " channels, pooled has " + std::to_string(pooled_channels);
  }
  if (problem->pooled_height < 1 || problem->pooled_height > kMaxBinsPerAxis ||
      problem->pooled_width < 1 || problem->pooled_width > kMaxBinsPerAxis) {
    return "pooled needs 1 to 2^24 bins per axis, got " + ToString(pooled);
  }
  int64_t cells;
  if (!ProductOf(map_dims + (last ? 1 : 2), map_dims + (last ? 3 : 4),
                 &cells) ||
      cells > kMaxInt32 || problem->height > kMaxInt32 ||
      problem->width > kMaxInt32 || problem->images > kMaxInt32) {
    return "height * width and the number of images must be below 2^31, got " +
           ToString(map);
  }
  // A map without cells takes no memory, and there may be any number of them:
  // plans count maps, and groups times images may be no int64. RoIs of such
  // maps give what RoIs give that name none.
  if (cells == 0) problem->images = 0;
  const int64_t bytes = ElementBytes(problem->element);
  if (!ProductOf(map.dims, map.dims + group_rank, &problem->groups) ||
      !ProductOf(image.dims + group_rank, image.dims + image.rank,
                 &problem->rois) ||
      !OffsetsFit(map, bytes) || !OffsetsFit(pooled, bytes)) {
    return "sizes overflow 64 bits: map " + ToString(map) + ", pooled " +
           ToString(pooled);
  }
  return "";
}

std::string CheckBoxes(Shape boxes, Shape image) {
  if (boxes.rank != image.rank + 1 ||
      !SameDims(boxes.dims, image.dims, image.rank) ||
      boxes.dims[image.rank] != 4) {
    return "boxes must have the image indices' shape and 4 numbers each, got "
           "boxes " +
           ToString(boxes) + ", image " + ToString(image);
  }
  return "";
}

std::string CheckArgmax(Shape argmax, Shape pooled) {
  if (argmax.rank != pooled.rank ||
      !SameDims(argmax.dims, pooled.dims, pooled.rank)) {
    return "argmax must have pooled's shape, got argmax " + ToString(argmax) +
           ", pooled " + ToString(pooled);
  }
  return "";
}

std::string CheckScale(Scale scale) {
  if (IsFinite(scale.height) && scale.height > 0 && IsFinite(scale.width) &&
      scale.width > 0) {
    return "";
  }
  return "the spatial scale must be finite and above 0, got (" +
         std::to_string(scale.height) + ", " + std::to_string(scale.width) +
         ")";
}

}  // namespace jax_roipool
