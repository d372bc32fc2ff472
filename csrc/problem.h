// What one call is about: sizes, layout and element type, checked.
//
// Every backend's handlers turn the shapes that XLA hands them into a Problem
// and trust nothing else. Canonical shapes, channels last ("NHWC") written
// here; with "NCHW" the channels stand before the rows:
//
//   map     [*groups, images, height, width, channels]   features or gradient
//   boxes   [*groups, *rois, 4]
//   image   [*groups, *rois]
//   pooled  [*groups, *rois, pooled_height, pooled_width, channels]
//   argmax  as pooled
//
// A group is a set of images that an image index may name.

#ifndef JAX_ROIPOOL_CSRC_PROBLEM_H_
#define JAX_ROIPOOL_CSRC_PROBLEM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "host_device.h"

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

struct Shape {
  const int64_t* dims = nullptr;
  int64_t rank = 0;
};

struct Scale {
  float height;
  float width;
};

struct Problem {
  Layout layout;
  Element element;
  int64_t groups;
  int64_t images;  // per group; 0 where they have no cells
  int64_t height, width, channels;
  int64_t rois;  // per group
  int64_t pooled_height, pooled_width;

  JAX_ROIPOOL_HOST_DEVICE int64_t cells() const { return height * width; }
  JAX_ROIPOOL_HOST_DEVICE int64_t bins() const {
    return pooled_height * pooled_width;
  }
  JAX_ROIPOOL_HOST_DEVICE int64_t map_size() const {
    return cells() * channels;
  }
  JAX_ROIPOOL_HOST_DEVICE int64_t pooled_size() const {
    return bins() * channels;
  }
};

// Reads a layout's name; false for a name that is none.
bool ParseLayout(std::string_view name, Layout* layout);

// Fills `problem`, whose layout and element are set already, from shapes.
// Returns an empty string, or what is wrong. Checked here: ranks, agreement of
// every dimension, sizes of which int32 cells or int64 offsets would overflow.
std::string MakeProblem(Shape map, Shape image, Shape pooled, Problem* problem);

// The checks of the operands that not every op has.
std::string CheckBoxes(Shape boxes, Shape image);
std::string CheckArgmax(Shape argmax, Shape pooled);
std::string CheckScale(Scale scale);

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_PROBLEM_H_
