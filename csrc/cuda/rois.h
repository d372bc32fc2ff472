// What kernels ask about one RoI, and how a block's turn becomes its work.

#ifndef JAX_ROIPOOL_CSRC_CUDA_ROIS_H_
#define JAX_ROIPOOL_CSRC_CUDA_ROIS_H_

#include <cstdint>

#include "cuda/device.h"
#include "geometry.h"
#include "problem.h"

namespace jax_roipool::cuda {

// Quotient and remainder of numbers that are not negative: mostly small ones,
// for which the device has the instructions.
struct Division {
  int64_t quotient, remainder;
};
__device__ inline Division Divide(int64_t number, int64_t by) {
  if (((number | by) >> 32) == 0) {
    const auto a = static_cast<uint32_t>(number);
    const auto b = static_cast<uint32_t>(by);
    return {a / b, a % b};
  }
  return {number / by, number % by};
}

// The map that a RoI reads, counted through all groups; -1 where its image
// index names none.
__device__ inline int64_t MapOf(const Problem& problem, const int32_t* image,
                                int64_t roi) {
  const int64_t index = image[roi];
  if (index < 0 || index >= problem.images) return -1;
  return Divide(roi, problem.rois).quotient * problem.images + index;
}

// A RoI on its map; `map` is -1 where it is empty.
struct Roi {
  int64_t map;
  BinAxis vertical, horizontal;
};
__device__ inline Roi LoadRoi(const Problem& problem, Scale scale,
                              const float* boxes, const int32_t* image,
                              int64_t roi) {
  Roi loaded{MapOf(problem, image, roi), {}, {}};
  const float* box = boxes + 4 * roi;  // x1, y1, x2, y2
  const float x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3];
  if (!IsFinite(x1) || !IsFinite(y1) || !IsFinite(x2) || !IsFinite(y2)) {
    loaded.map = -1;
  }
  if (loaded.map >= 0) {
    loaded.vertical = MakeBinAxis(y1, y2, scale.height, problem.pooled_height);
    loaded.horizontal = MakeBinAxis(x1, x2, scale.width, problem.pooled_width);
  }
  return loaded;
}

// Whether the RoI's bins may have `cells` cells on the map, or more.
__device__ inline bool HasLargeBins(const Problem& problem, const Roi& roi,
                                    int cells) {
  float height = roi.vertical.bin_size + 1, width = roi.horizontal.bin_size + 1;
  if (height > problem.height) height = problem.height;
  if (width > problem.width) width = problem.width;
  return height * width >= cells;
}

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_ROIS_H_
