// Calls of argmax_gather and argmax_scatter on any platform: reading a map
// where an argmax says, and adding into one there. Each is the other's
// transpose.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CALLS_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CALLS_H_

#include <cstdint>

#include "core/host_device.h"
#include "core/sizes.h"

namespace jax_roipool {

struct ArgmaxGatherCall : RoiCall {
  const void* tangents[kMaxLevels];
  const int32_t* argmax;
  void* pooled;
};

struct ArgmaxScatterCall : RoiCall {
  const void* cotangent;
  const int32_t* argmax;
  void* gradients[kMaxLevels];
};

// An argmax that names no cell, -1 or foreign, takes part in nothing: one
// unsigned comparison.
JAX_ROIPOOL_HOST_DEVICE constexpr bool NamesCell(int32_t argmax,
                                                 int64_t cells) {
  return static_cast<uint32_t>(argmax) < static_cast<uint64_t>(cells);
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CALLS_H_
