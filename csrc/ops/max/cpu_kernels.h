// The interface of the CPU's kernels of max pooling: pointers and sizes in,
// numbers out.
//
// A kernel runs one unit of work on the calling thread; it allocates nothing
// and knows neither XLA nor Python.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_KERNELS_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_KERNELS_H_

#include <cstdint>

#include "core/sizes.h"
#include "cpu/dispatch.h"
#include "ops/max/call.h"

namespace jax_roipool::cpu {

// Where a unit finds its cells: in the map as it lies, or in a table of block
// maxima (cpu_block_table.h), one for all RoIs of the unit or one for each.
enum class CellSource { kMap, kSharedTable, kOwnTables };

// Height and width of the blocks in a table, powers of two.
struct BlockSize {
  int64_t height = 1, width = 1;
};

// How many vectors of channels a cell of a table has, at most: where it holds
// single cells in NCHW, looking one up costs more than reading its lanes.
constexpr int64_t kTableVectors = 2;

// A part of the work that one thread does alone: the RoIs at places
// [roi_begin, roi_end) of the order, channels [channel_begin, channel_end).
struct MaxPoolUnit {
  int64_t roi_begin, roi_end;
  int64_t channel_begin, channel_end;
  CellSource source;
  BlockSize block = {};
  int64_t map = -1;    // of a shared table, counted through all groups
  int64_t top = 0;     // its first row
  Range columns = {};  // and its columns
};

// A call and what its plan found out, all that a kernel reads and writes.
struct PlannedMaxPool : MaxPoolCall {
  const int64_t* order;   // RoIs as units name them
  const int64_t* map_of;  // RoI -> map, or -1 for an empty RoI
  const Range* rows;      // RoI -> the rows of its bins
  const Range* columns;   // RoI -> the columns of its bins
};

// Memory of one thread; what a plan has no use for is null.
struct MaxPoolScratch {
  void* keys;     // of a table, a vector for each cell
  void* indices;  // and of these
  void* pooled;   // and for each bin of one RoI
  int32_t* argmax;
};

struct MaxPoolKernels {
  using Kernel = void (*)(const PlannedMaxPool& call, const MaxPoolUnit& unit,
                          const MaxPoolScratch& scratch);
  int64_t vector_bytes;
  Kernel pool[kNumElements];
};
JAX_ROIPOOL_DECLARE_KERNELS(MaxPoolKernels)

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_KERNELS_H_
