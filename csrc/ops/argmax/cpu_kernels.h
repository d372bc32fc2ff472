// The interface of the CPU's kernels of argmax_gather and argmax_scatter. A
// kernel runs one unit of work on the calling thread; it allocates nothing and
// knows neither XLA nor Python.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_KERNELS_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_KERNELS_H_

#include <cstdint>

#include "core/sizes.h"
#include "cpu/dispatch.h"
#include "ops/argmax/calls.h"

namespace jax_roipool::cpu {

// --- argmax_gather

// The RoIs at places [roi_begin, roi_end) of the order.
struct ArgmaxGatherUnit {
  int64_t roi_begin, roi_end;
};

struct PlannedArgmaxGather : ArgmaxGatherCall {
  const int64_t* order;   // RoIs as units name them
  const int64_t* map_of;  // RoI -> map, or -1 for an empty RoI
};

struct ArgmaxGatherScratch {};

struct ArgmaxGatherKernels {
  using Kernel = void (*)(const PlannedArgmaxGather& call,
                          const ArgmaxGatherUnit& unit,
                          const ArgmaxGatherScratch& scratch);
  Kernel gather[kNumElements];
};
JAX_ROIPOOL_DECLARE_KERNELS(ArgmaxGatherKernels)

// --- argmax_scatter

// Channels [begin, end) of a map, whose RoIs are those at places [roi_begin,
// roi_end) of the order; numbers [begin, end) of a map that has none.
struct ArgmaxScatterUnit {
  int64_t roi_begin, roi_end;
  int64_t begin, end;
  int64_t map;
};

struct PlannedArgmaxScatter : ArgmaxScatterCall {
  const int64_t* order;
};

struct ArgmaxScatterScratch {
  void* sums;  // of a unit's channels; null where they lie in the gradient
};

struct ArgmaxScatterKernels {
  using Kernel = void (*)(const PlannedArgmaxScatter& call,
                          const ArgmaxScatterUnit& unit,
                          const ArgmaxScatterScratch& scratch);
  Kernel scatter[kNumElements];
};
JAX_ROIPOOL_DECLARE_KERNELS(ArgmaxScatterKernels)

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_KERNELS_H_
