// The kernels' interface: device pointers and sizes in, launches on a stream.
//
// Nothing here waits, allocates or copies, so that every call can be recorded
// into a CUDA graph and replayed.

#ifndef JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_
#define JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_

#include <cstdint>

#include "cuda/device.h"
#include "problem.h"

namespace jax_roipool::cuda {

struct PoolCall {
  Problem problem;
  Scale scale;
  const void* features;
  const float* boxes;
  const int32_t* image;
  void* pooled;
  int32_t* argmax;  // null where it is not wanted
};

// map[argmax] -> pooled, or its transpose: pooled is added to the map.
struct GatherCall {
  Problem problem;
  const void* map;
  const int32_t* image;
  const int32_t* argmax;
  void* pooled;
};

struct ScatterCall {
  Problem problem;
  const void* pooled;
  const int32_t* image;
  const int32_t* argmax;
  void* map;
  int32_t* bounds;  // workspace: two for each RoI
};

Status Pool(const PoolCall& call, const Device& device, Stream stream);
Status Gather(const GatherCall& call, const Device& device, Stream stream);
Status Scatter(const ScatterCall& call, const Device& device, Stream stream);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_
