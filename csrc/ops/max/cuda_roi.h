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

// A RoI on its map; on any where it is empty.
template <typename T>
struct Roi {
  bool empty;
  const T* map;
  int level;
  BinAxes axes;
};
template <typename T>
__device__ inline Roi<T> LoadRoi(const MaxPoolCall& call, int64_t roi) {
  const int64_t map = MapOf(call, roi);
  const Box box = LoadBox(call.boxes, roi);
  if (map < 0 || !IsFinite(box)) {
    return {true, static_cast<const T*>(call.features[0]), 0, {}};
  }
  const MapPlace at = PlaceOf(call.maps, map);
  return {false, MapData<const T>(call.maps, call.features, at),
          static_cast<int>(at.level),
          MakeBinAxes(box, call.scales[at.level], call.bins)};
}

// Whether the RoI's bins may have `cells` cells on the map, or more.
template <typename T>
__device__ inline bool HasLargeBins(const Level& level, const Roi<T>& roi,
                                    int cells) {
  float height = roi.axes.vertical.bin_size + 1;
  float width = roi.axes.horizontal.bin_size + 1;
  if (height > level.height) height = level.height;
  if (width > level.width) width = level.width;
  return height * width >= cells;
}

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_ROI_H_
