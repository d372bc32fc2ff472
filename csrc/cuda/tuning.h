// The numbers that decide speed and nothing else.

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

#endif  // JAX_ROIPOOL_CSRC_CUDA_TUNING_H_
