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

// A part of the work that one thread does alone: the RoIs at places
// [roi_begin, roi_end) of Call::order, channels [channel_begin, channel_end).
// In kernels that own a map, `map` says which (group * images + image).
struct Unit {
  int64_t roi_begin, roi_end;
  int64_t channel_begin, channel_end;
  int64_t map;
};

// Everything a kernel reads and writes. RoIs and maps of all groups are
// counted through; what an op does not have is null.
struct Call {
  Problem problem;
  const int64_t* order;   // RoIs by map, within a map as they came
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

// Memory of one thread, sized by MakeScratch (plan.h) for the largest unit.
struct Scratch {
  void* tile;         // a block of channels of one map; in scatter null where
                      // sums may lie in the gradient itself
  void* tile_pooled;  // one RoI's bins over that block
  int32_t* tile_argmax;
};

using Kernel = void (*)(const Call& call, const Unit& unit,
                        const Scratch& scratch);

struct KernelTable {
  const char* name;
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
