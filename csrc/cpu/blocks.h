// Choosing the RoIs that are pooled from tables of block maxima
// (kernels/pool_blocks.h), and the sizes of their blocks.

#ifndef JAX_ROIPOOL_CSRC_CPU_BLOCKS_H_
#define JAX_ROIPOOL_CSRC_CPU_BLOCKS_H_

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "geometry.h"
#include "problem.h"

namespace jax_roipool::cpu {

// RoIs of one map that share a table, and what it costs, per vector of
// channels, to build it and to look their bins up.
struct BlockGroup {
  BlockSize block;
  std::vector<int64_t> rois;
  double build, lookups;
};

// Divides `rois`, of one map and none of them empty, into groups that are worth
// a shared table; the others are appended to `rest`, in any order.
std::vector<BlockGroup> ChooseBlocks(const Problem& problem, const Range* rows,
                                     const Range* columns, const int64_t* rois,
                                     int64_t num_rois, bool argmax,
                                     std::vector<int64_t>* rest);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_BLOCKS_H_
