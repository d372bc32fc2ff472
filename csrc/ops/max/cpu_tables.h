// Choosing the RoIs that are pooled from tables of block maxima
// (cpu_block_table.h), and the sizes of their blocks.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_TABLES_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_TABLES_H_

#include <cstdint>
#include <vector>

#include "core/sizes.h"
#include "ops/max/cpu_kernels.h"

namespace jax_roipool::cpu {

// RoIs of one map that share a table, and what it costs, per vector of
// channels, to build it and to look their bins up.
struct SharedTable {
  BlockSize block;
  std::vector<int64_t> rois;
  double build, lookups;
};

// Divides `rois`, of one map and none of them empty, into groups that are worth
// a shared table; the others are appended to `rest`, in any order.
std::vector<SharedTable> ChooseTables(const PlannedMaxPool& call, int64_t map,
                                      const int64_t* rois, int64_t num_rois,
                                      std::vector<int64_t>* rest);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_TABLES_H_
