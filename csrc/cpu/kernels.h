// The kernels' interface: pointers and sizes in, numbers out.
//
// kernels.cc is compiled once per instruction set ("target"), each time in a
// namespace of its own, and exports one KernelTable. A kernel runs one unit of
// work (see plan.h) on the calling thread; it allocates nothing and knows
// neither XLA nor Python.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_H_

#include <cstdint>

#include "geometry.h"
#include "problem.h"

namespace jax_roipool::cpu {

// Where a unit of pooling finds its cells: in the map as it lies, or in a table
// of block maxima (kernels/pool_blocks.h), one for all RoIs of the unit or one
// for each.
enum class Source { kMap, kSharedTable, kOwnTables };

// Height and width of the blocks in a table, powers of two.
struct BlockSize {
  int64_t height = 1, width = 1;
};

// Channels that kernels take together where they turn or tabulate a map: a
// vector of `vector_bytes`, whose lanes are no smaller than an index.
constexpr int64_t SquareSide(int64_t vector_bytes, int64_t element_bytes) {
  return vector_bytes / (element_bytes < 4 ? 4 : element_bytes);
}

// And how many such vectors a cell of a table has, at most: where it holds
// single cells in NCHW, looking one up costs more than reading its lanes.
constexpr int64_t kTableVectors = 2;

// A part of the work that one thread does alone: the RoIs at places
// [roi_begin, roi_end) of Call::order, channels [channel_begin, channel_end).
struct Unit {
  int64_t roi_begin, roi_end;
  int64_t channel_begin, channel_end;
  int64_t map = -1;  // group * images + image, where all RoIs share one
  Source source = Source::kMap;  // pool only, and so those below
  BlockSize block = {};
  int64_t top = 0;     // a shared table's first row
  Range columns = {};  // and its columns
};

// Everything a kernel reads and writes. RoIs and maps of all groups are
// counted through; what an op does not have is null.
struct Call {
  Problem problem;
  const int64_t* order;   // RoIs as units name them; see Plan
  const int64_t* map_of;  // RoI -> map, or -1 for an empty RoI
  const Range* rows;      // RoI -> pooled_height ranges (pool only)
  const Range* columns;   // RoI -> pooled_width ranges (pool only)
  const void* map;        // features or tangent; null in scatter
  const void* cotangent;  // scatter only
  void* gradient;         // scatter only: a map
  void* pooled;           // pool and gather
  int32_t* argmax_out;    // pool, where it is wanted
  const int32_t* argmax;  // gather and scatter
};

// Memory of one thread, each piece 64-byte aligned, sized by MakeScratch
// (plan.h); what an op or a layout has no use for is null.
struct Scratch {
  void* sums;  // scatter: of a unit's channels of one map; null where they
               // lie in the gradient itself
  void* keys;  // pool, from tables: a vector for each cell
  void* indices;
  void* pooled;  // and for each bin of one RoI
  int32_t* argmax;
};

using Kernel = void (*)(const Call& call, const Unit& unit,
                        const Scratch& scratch);

struct KernelTable {
  const char* name;
  int64_t vector_bytes;
  Kernel pool[kNumElements];
  Kernel gather[kNumElements];
  Kernel scatter[kNumElements];
};

namespace baseline {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_H_
