// What one call is about: sizes that compose, checked.
//
// Every handler turns the shapes that XLA hands it into Maps, Rois and Bins, as
// far as its op has them, and trusts nothing else. Canonical shapes, channels
// last ("NHWC") written here; with "NCHW" the channels stand before the rows:
//
//   maps          [*groups, images, height, width, channels]   one per level
//   boxes         [*groups, *rois, 4]
//   image_index   [*groups, *rois]
//   level         as image_index, where there are several levels
//   pooled        [*groups, *rois, bins.height, bins.width, bins.channels]
//   argmax        as pooled
//
// A group is a set of images that an image index may name.

#ifndef JAX_ROIPOOL_CSRC_CORE_SIZES_H_
#define JAX_ROIPOOL_CSRC_CORE_SIZES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/host_device.h"

namespace jax_roipool {

enum class Layout { kNHWC, kNCHW };

// Element types of features; each has its kernels.
enum class Element { kFloat16, kBFloat16, kFloat32, kFloat64 };
constexpr int kNumElements = 4;

constexpr int64_t ElementBytes(Element element) {
  return element == Element::kFloat64   ? 8
         : element == Element::kFloat32 ? 4
                                        : 2;
}

JAX_ROIPOOL_HOST_DEVICE constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Quotient and remainder of numbers that are not negative: mostly small ones,
// for which GPUs have the instructions.
struct Division {
  int64_t quotient, remainder;
};
JAX_ROIPOOL_HOST_DEVICE inline Division Divide(int64_t number, int64_t by) {
  if (((number | by) >> 32) == 0) {
    const auto a = static_cast<uint32_t>(number);
    const auto b = static_cast<uint32_t>(by);
    return {a / b, a % b};
  }
  return {number / by, number % by};
}

// One level of a feature pyramid; a single map is a pyramid of one.
struct Level {
  int64_t height, width;

  JAX_ROIPOOL_HOST_DEVICE int64_t cells() const { return height * width; }
};
constexpr int kMaxLevels = 16;

// Half-open range of rows or of columns; empty when end <= begin.
struct Range {
  int32_t begin;
  int32_t end;
};

// Features, or what has their shape: a tangent or a gradient.
struct Maps {
  Layout layout;
  Element element;
  int64_t groups;
  int64_t images;  // per group; 0 where no level has cells
  int64_t channels;
  int num_levels;
  Level levels[kMaxLevels];

  // Of one level.
  JAX_ROIPOOL_HOST_DEVICE int64_t count() const { return groups * images; }
  JAX_ROIPOOL_HOST_DEVICE int64_t map_size(int64_t level = 0) const {
    return levels[level].cells() * channels;
  }
  // Of all of them.
  JAX_ROIPOOL_HOST_DEVICE int64_t count_all() const {
    return num_levels * count();
  }
  bool empty() const { return groups == 0 || images == 0 || channels == 0; }
};

struct Rois {
  int64_t groups;
  int64_t per_group;

  JAX_ROIPOOL_HOST_DEVICE int64_t count() const { return groups * per_group; }
};

// What each RoI has as a result.
struct Bins {
  int64_t height, width;
  int64_t channels;

  JAX_ROIPOOL_HOST_DEVICE int64_t count() const { return height * width; }
  JAX_ROIPOOL_HOST_DEVICE int64_t size() const { return count() * channels; }
};

// Cells per pixel of the image, along each axis.
struct Scale {
  float height;
  float width;
};

// What calls of every op have.
struct RoiCall {
  Maps maps;
  Rois rois;
  Bins bins;
  const int32_t* image_index;
  const int32_t* level;  // null with one level
};

// The map that a RoI reads, counted through the images of a group, the groups
// and the levels; -1 where its image index or its level names none.
JAX_ROIPOOL_HOST_DEVICE inline int64_t MapOf(const RoiCall& call, int64_t roi) {
  const Maps& maps = call.maps;
  const int64_t index = call.image_index[roi];
  if (index < 0 || index >= maps.images) return -1;
  const int64_t map =
      Divide(roi, call.rois.per_group).quotient * maps.images + index;
  if (call.level == nullptr) return map;
  const int64_t level = call.level[roi];
  if (level < 0 || level >= maps.num_levels) return -1;
  return level * maps.count() + map;
}

// A map that is counted so: its level, and its place on that.
struct MapPlace {
  int64_t level, map;
};
JAX_ROIPOOL_HOST_DEVICE inline MapPlace PlaceOf(const Maps& maps, int64_t map) {
  if (maps.num_levels == 1) return {0, map};
  const Division place = Divide(map, maps.count());
  return {place.quotient, place.remainder};
}

// The numbers of that map, where `levels` has each level's.
template <typename T, typename Void>
JAX_ROIPOOL_HOST_DEVICE T* MapData(const Maps& maps, Void* const* levels,
                                   MapPlace at) {
  return static_cast<T*>(levels[at.level]) + at.map * maps.map_size(at.level);
}

struct Shape {
  const int64_t* dims = nullptr;
  int64_t rank = 0;
};

// Reads a layout's name; false for a name that is none.
bool ParseLayout(std::string_view name, Layout* layout);

// The functions below return an empty string, or what is wrong. Checked are
// ranks, agreement of every dimension, and sizes of which int32 cells or int64
// offsets would overflow.

// Fills `maps`, whose layout and element are set already, from the shapes of
// its levels.
std::string MakeMaps(const Shape* levels, int num_levels, Maps* maps);

// `map` is the shape of any level, already found right.
std::string MakeRois(Shape map, Shape image_index, Rois* rois);

// Bins as a result lays them out; their channels may be others than the maps'.
std::string MakeBins(Shape image_index, Shape pooled, const Maps& maps,
                     Bins* bins);

std::string CheckSameChannels(const Maps& maps, const Bins& bins);
std::string CheckLevel(Shape level, Shape image_index);
std::string CheckBoxes(Shape boxes, Shape image_index);
std::string CheckArgmax(Shape argmax, Shape pooled);
std::string CheckScale(Scale scale);

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_SIZES_H_
