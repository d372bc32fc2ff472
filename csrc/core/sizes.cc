#include "core/sizes.h"

#include <limits>

#include "core/float32.h"

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

std::string MakeMaps(const Shape* levels, int num_levels, Maps* maps) {
  if (num_levels < 1 || num_levels > kMaxLevels) {
    return "there must be 1 to " + std::to_string(kMaxLevels) +
           " levels, got " + std::to_string(num_levels);
  }
  const bool last = maps->layout == Layout::kNHWC;
  const int64_t bytes = ElementBytes(maps->element);
  const Shape first = levels[0];
  int64_t all_cells = 0;
  maps->num_levels = num_levels;
  for (int i = 0; i < num_levels; ++i) {
    const Shape map = levels[i];
    if (!AllNonNegative(map)) return "negative dimension: map " + ToString(map);
    if (map.rank < 4) {
      return "the map needs at least 4 dimensions, got " + ToString(map);
    }
    const int64_t* dims = map.dims + map.rank - 4;
    const int64_t *cells_of = dims + (last ? 1 : 2),
                  *of = dims + (last ? 3 : 1);
    if (i == 0) {
      maps->images = dims[0];
      maps->channels = *of;
    } else if (map.rank != first.rank ||
               !SameDims(map.dims, first.dims, map.rank - 3) ||
               *of != maps->channels) {
      return "levels disagree: map " + ToString(first) + ", map " +
             ToString(map);
    }
    int64_t cells;
    if (!ProductOf(cells_of, cells_of + 2, &cells) || cells > kMaxInt32 ||
        cells_of[0] > kMaxInt32 || cells_of[1] > kMaxInt32 ||
        dims[0] > kMaxInt32) {
      return "height * width and the number of images must be below 2^31, "
             "got " +
             ToString(map);
    }
    if (!ProductOf(map.dims, dims, &maps->groups) || !OffsetsFit(map, bytes)) {
      return "sizes overflow 64 bits: map " + ToString(map);
    }
    maps->levels[i] = {cells_of[0], cells_of[1]};
    all_cells += cells;
  }
  if (all_cells > 0 && maps->channels > 0) {  // else there are no numbers
    int64_t count = num_levels;
    if (!Multiply(maps->groups, &count) || !Multiply(maps->images, &count)) {
      return "sizes overflow 64 bits: map " + ToString(first);
    }
  }
  // A map without cells takes no memory, and there may be any number of them:
  // plans count maps, and groups times images may be no int64. RoIs of such
  // maps give what RoIs give that name none.
  if (all_cells == 0) maps->images = 0;
  return "";
}

std::string MakeRois(Shape map, Shape image_index, Rois* rois) {
  const int64_t group_rank = map.rank - 4;
  if (!AllNonNegative(image_index)) {
    return "negative dimension: image index " + ToString(image_index);
  }
  if (image_index.rank < group_rank ||
      !SameDims(map.dims, image_index.dims, group_rank)) {
    return "shapes disagree: map " + ToString(map) + ", image index " +
           ToString(image_index);
  }
  const int64_t* groups_end = image_index.dims + group_rank;
  if (!ProductOf(image_index.dims, groups_end, &rois->groups) ||
      !ProductOf(groups_end, image_index.dims + image_index.rank,
                 &rois->per_group)) {
    return "sizes overflow 64 bits: image index " + ToString(image_index);
  }
  return "";
}

std::string MakeBins(Shape image_index, Shape pooled, const Maps& maps,
                     Bins* bins) {
  if (!AllNonNegative(pooled)) {
    return "negative dimension: pooled " + ToString(pooled);
  }
  if (pooled.rank != image_index.rank + 3 ||
      !SameDims(image_index.dims, pooled.dims, image_index.rank)) {
    return "shapes disagree: image index " + ToString(image_index) +
           ", pooled " + ToString(pooled);
  }
  const int64_t* dims = pooled.dims + image_index.rank;
  const bool last = maps.layout == Layout::kNHWC;
  bins->height = dims[last ? 0 : 1];
  bins->width = dims[last ? 1 : 2];
  bins->channels = dims[last ? 2 : 0];
  if (bins->height < 1 || bins->height > kMaxBinsPerAxis || bins->width < 1 ||
      bins->width > kMaxBinsPerAxis) {
    return "pooled needs 1 to 2^24 bins per axis, got " + ToString(pooled);
  }
  if (!OffsetsFit(pooled, ElementBytes(maps.element))) {
    return "sizes overflow 64 bits: pooled " + ToString(pooled);
  }
  return "";
}

std::string CheckSameChannels(const Maps& maps, const Bins& bins) {
  if (maps.channels == bins.channels) return "";
  return "the map has " + std::to_string(maps.channels) +
         " channels, pooled has " + std::to_string(bins.channels);
}

std::string CheckLevel(Shape level, Shape image_index) {
  if (level.rank != image_index.rank ||
      !SameDims(level.dims, image_index.dims, level.rank)) {
    return "level must have the image indices' shape, got level " +
           ToString(level) + ", image index " + ToString(image_index);
  }
  return "";
}

std::string CheckBoxes(Shape boxes, Shape image_index) {
  if (boxes.rank != image_index.rank + 1 ||
      !SameDims(boxes.dims, image_index.dims, image_index.rank) ||
      boxes.dims[image_index.rank] != 4) {
    return "boxes must have the image indices' shape and 4 numbers each, got "
           "boxes " +
           ToString(boxes) + ", image index " + ToString(image_index);
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
