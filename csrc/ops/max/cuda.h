// Max pooling on CUDA: device pointers and sizes in, launches on a stream.
// Nothing waits, allocates or copies, so that every call can be recorded into a
// CUDA graph and replayed.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_H_

#include "cuda/device.h"
#include "ops/max/call.h"

namespace jax_roipool::cuda {

Status MaxPool(const MaxPoolCall& call, const Device& device, Stream stream);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_H_
