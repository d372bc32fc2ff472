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

// Of a block, in its shared memory: threads in their order.
struct ThreadList {
  int32_t* threads;  // kThreads of them
  int32_t* counts;   // of each warp

  static constexpr int64_t kNumbers = kThreads + kWarps;
  __device__ explicit ThreadList(int32_t* memory)
      : threads(memory), counts(memory + kThreads) {}

  // Lists those that have a hit; how many there are. All threads take part, and
  // none looks at the former list any more.
  __device__ int Make(bool hit) const {
    constexpr unsigned kAllLanes = 0xffffffffu;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const unsigned hits = __ballot_sync(kAllLanes, hit);
    if (lane == 0) counts[warp] = __popc(hits);
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp) before += counts[i];
      all += counts[i];
    }
    if (hit) {
      const unsigned lower = (1u << lane) - 1;
      threads[before + __popc(hits & lower)] = threadIdx.x;
    }
    __syncthreads();
    return all;
  }
};

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_WORK_H_
