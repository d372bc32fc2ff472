// Where a coordinate becomes a cell by Caffe's rule, which rounds the corners
// of a box: the only place that knows it.
//
// Host and device code, so that every backend pools the same bins. The Python
// twin is `bin_bounds` in jax_roipool/geometry; tests/ops/test_caffe_bins.py
// holds the two together.
//
// All arithmetic is that of float32.h, of which each operation rounds on its
// own: a fused multiply-add would move a bin by a cell.

#ifndef JAX_ROIPOOL_CSRC_CORE_CAFFE_BINS_H_
#define JAX_ROIPOOL_CSRC_CORE_CAFFE_BINS_H_

#include <cstdint>

#include "core/boxes.h"
#include "core/float32.h"
#include "core/host_device.h"
#include "core/sizes.h"

namespace jax_roipool {

// One axis of a RoI on the feature map: its first cell and the float32 extent
// of one bin.
struct BinAxis {
  int32_t first;
  float bin_size;
};

// Beyond 2^24 float32 no longer counts every integer, and int32 arithmetic on
// cells could overflow; cells are clamped to it, far outside any map.
constexpr float kCellLimit = 16777216.0f;

// The cell of a finite image coordinate: C's `round`, half away from zero.
JAX_ROIPOOL_HOST_DEVICE inline int32_t CellOf(float coordinate, float scale) {
  float scaled = Product(coordinate, scale);
  if (scaled > kCellLimit) scaled = kCellLimit;
  if (scaled < -kCellLimit) scaled = -kCellLimit;
  const int32_t whole = static_cast<int32_t>(scaled);     // towards zero
  const float rest = scaled - static_cast<float>(whole);  // exact
  return whole + static_cast<int32_t>(rest >= 0.5f) -
         static_cast<int32_t>(rest <= -0.5f);
}

// Corners are inclusive; a reversed box counts as one cell long.
JAX_ROIPOOL_HOST_DEVICE inline BinAxis MakeBinAxis(float low, float high,
                                                   float scale,
                                                   int64_t num_bins) {
  const int32_t first = CellOf(low, scale);
  const int32_t last = CellOf(high, scale);
  const int32_t length = last < first ? 1 : last - first + 1;
  return {first,
          Quotient(static_cast<float>(length), static_cast<float>(num_bins))};
}

// Both axes of a RoI.
struct BinAxes {
  BinAxis vertical, horizontal;
};
JAX_ROIPOOL_HOST_DEVICE inline BinAxes MakeBinAxes(const Box& box, Scale scale,
                                                   const Bins& bins) {
  return {MakeBinAxis(box.y1, box.y2, scale.height, bins.height),
          MakeBinAxis(box.x1, box.x2, scale.width, bins.width)};
}

// Bin `bin` of `axis`, clipped to a map of `extent` cells. The end may lie one
// cell past the RoI where float32 rounds the last product up (7 bins, 57
// cells): Caffe, torchvision and ONNX Runtime read that cell, and so do we.
JAX_ROIPOOL_HOST_DEVICE inline Range BinRange(const BinAxis& axis, int64_t bin,
                                              int64_t extent) {
  const float low = Product(static_cast<float>(bin), axis.bin_size);
  const float high = Product(static_cast<float>(bin + 1), axis.bin_size);
  // Neither is negative: conversion to an integer is floor. Both are below
  // 2^26, since a RoI is at most 2^25 + 1 cells long.
  int32_t begin = static_cast<int32_t>(low);
  int32_t end = static_cast<int32_t>(high);
  end += static_cast<int32_t>(static_cast<float>(end) < high);
  begin += axis.first;
  end += axis.first;
  const int32_t limit = static_cast<int32_t>(extent);
  begin = begin < 0 ? 0 : (begin > limit ? limit : begin);
  end = end < 0 ? 0 : (end > limit ? limit : end);
  return {begin, end};
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_CAFFE_BINS_H_
