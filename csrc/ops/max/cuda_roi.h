// What kernels ask about one RoI.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_ROI_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_ROI_H_

#include <cstdint>

#include "core/boxes.h"
#include "core/caffe_bins.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "ops/max/call.h"

namespace jax_roipool::cuda {

// A RoI on its map; `map` is -1 where it is empty.
struct Roi {
  int64_t map;
  BinAxes axes;
};
__device__ inline Roi LoadRoi(const MaxPoolCall& call, int64_t roi) {
  Roi loaded{MapOf(call.maps, call.rois, call.image_index, roi), {}};
  const Box box = LoadBox(call.boxes, roi);
  if (!IsFinite(box)) loaded.map = -1;
  if (loaded.map >= 0) loaded.axes = MakeBinAxes(box, call.scale, call.bins);
  return loaded;
}

// Whether the RoI's bins may have `cells` cells on the map, or more.
__device__ inline bool HasLargeBins(const Level& level, const Roi& roi,
                                    int cells) {
  float height = roi.axes.vertical.bin_size + 1;
  float width = roi.axes.horizontal.bin_size + 1;
  if (height > level.height) height = level.height;
  if (width > level.width) width = level.width;
  return height * width >= cells;
}

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_ROI_H_
