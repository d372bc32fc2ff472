// How a handler is handed the stream that its work belongs on. The kernels'
// tests on the host have a header of their own in place of this one.

#ifndef JAX_ROIPOOL_CSRC_CUDA_STREAM_H_
#define JAX_ROIPOOL_CSRC_CUDA_STREAM_H_

#include "cuda/device.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cuda {

using StreamContext = xla::ffi::PlatformStream<Stream>;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_STREAM_H_
