// The numbers that decide speed and nothing else.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_TUNING_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_TUNING_H_

#include <cstdint>

#include "cuda/tuning.h"

namespace jax_roipool::cuda {

// Blocks that share a multiprocessor's registers, at least. With argmax there
// would be spills with three.
constexpr int PoolBlocksTogether(bool argmax) { return argmax ? 2 : 3; }

// Pooling, channels last. Cells from which a bin is shared by all groups of
// threads of a block rather than walked by one.
constexpr int kSharedBinCells = 64;
// Bins per group of threads, at most.
constexpr int kBinsPerGroup = 4;

// Pooling, channels first. Cells from which a bin is pooled from maxima of
// columns rather than by a thread of its own.
constexpr int kColumnBinCells = 9;
// Channels that a thread takes one after another with bins found once.
constexpr int kChannelsPerThread = 8;
// Rows of bins whose columns are in shared memory together.
constexpr int kStagedRows = 8;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_TUNING_H_
