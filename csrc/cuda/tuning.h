// The numbers that decide speed and nothing else: those of all ops. Each op has
// further ones of its own.

#ifndef JAX_ROIPOOL_CSRC_CUDA_TUNING_H_
#define JAX_ROIPOOL_CSRC_CUDA_TUNING_H_

#include <cstdint>

namespace jax_roipool::cuda {

// Threads of a block, in every kernel: eight warps.
constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Bytes that a thread loads and stores at once, where memory is aligned so.
constexpr int kVectorBytes = 16;

// A grid's first dimension takes 2^31 - 1 blocks; they take turns beyond.
constexpr int64_t kMaxBlocks = 1 << 30;

// Blocks that a multiprocessor should have, for work to be cut no finer.
constexpr int64_t kBlocksPerMultiprocessor = 8;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_TUNING_H_
