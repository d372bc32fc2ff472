// argmax_gather and argmax_scatter on CUDA: device pointers and sizes in,
// launches on a stream. Nothing waits, allocates or copies, so that every call
// can be recorded into a CUDA graph and replayed.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_H_

#include <cstdint>

#include "cuda/device.h"
#include "ops/argmax/calls.h"

namespace jax_roipool::cuda {

Status ArgmaxGather(const ArgmaxGatherCall& call, const Device& device,
                    Stream stream);

// `bounds` is a workspace: two for each RoI.
Status ArgmaxScatter(const ArgmaxScatterCall& call, int32_t* bounds,
                     const Device& device, Stream stream);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CUDA_H_
