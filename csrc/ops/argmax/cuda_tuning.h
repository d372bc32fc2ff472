// The numbers that decide speed and nothing else.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_TUNING_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_TUNING_H_

#include <cstdint>

#include "cuda/tuning.h"

namespace jax_roipool::cuda {

// Scatter. Channels of a block: one warp each.
constexpr int kScatterChannels = kWarps;
// Entries that a warp adds up together: that many loads are in flight.
constexpr int kScatterSteps = 4;
constexpr int kScatterBatch = kScatterSteps * kWarp;
// Numbers of other lanes that a lane adds before it asks whether there are
// more.
constexpr int kShufflesPerVote = 4;
// Blocks of a multiprocessor whose registers and planes should fit together.
constexpr int kScatterBlocksTogether = 2;
// A plane is not cut into smaller tiles than this to make more blocks.
constexpr int64_t kMinTileCells = 512;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_TUNING_H_
