// How blocks take turns at the items of work that a launch is cut into.

#ifndef JAX_ROIPOOL_CSRC_CUDA_WORK_H_
#define JAX_ROIPOOL_CSRC_CUDA_WORK_H_

#include <algorithm>
#include <cstdint>

#include "cuda/device.h"
#include "cuda/tuning.h"

namespace jax_roipool::cuda {

// Blocks of a launch: one for each item, as far as a grid goes.
inline int64_t BlocksFor(int64_t items) { return std::min(items, kMaxBlocks); }

// run(item) for every item that is this block's.
template <typename Run>
__device__ inline void TakeTurns(int64_t items, const Run& run) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) run(item);
}

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_WORK_H_
