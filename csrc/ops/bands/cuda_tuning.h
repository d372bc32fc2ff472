// The numbers that decide speed and nothing else.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_TUNING_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_TUNING_H_

#include <cstdint>

#include "cuda/tuning.h"

namespace jax_roipool::cuda {

// Blocks of a multiprocessor whose registers fit together, at least. Left to
// itself nvcc spills for more.
constexpr int kBandsBlocksTogether = 2;

// Applying, channels last. Bins per group of threads, at most.
constexpr int kBandsBinsPerGroup = 4;
// Cells of the mean bin from which all groups of a block share each.
constexpr int kBandsSharedCells = 64;

// Applying, channels first. Channels that a thread takes together, and rows of
// bins per warp.
constexpr int kBandsPlanes = 4;
constexpr int kBandsRowsPerWarp = 4;

// Transposed: neighbouring rows that a thread adds up, channels last; channels
// that it does, channels first; the columns of a tile, at most.
constexpr int kSpreadRows = 4;
constexpr int kSpreadPlanes = 8;
constexpr int kSpreadColumns = kWarp;
// RoIs that a thread asks at once whether they meet the tile.
constexpr int kSpreadAsked = 4;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_TUNING_H_
