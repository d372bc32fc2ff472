// The XLA FFI handlers for CUDA.

#ifndef JAX_ROIPOOL_CSRC_CUDA_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_CUDA_HANDLERS_H_

#include "buffers.h"

namespace jax_roipool::cuda {

extern const Handler kHandlers[4];

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_HANDLERS_H_
