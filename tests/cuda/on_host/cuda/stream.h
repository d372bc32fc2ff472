// Stands in for csrc/cuda/stream.h where kernels run on the host: there is no
// stream, and a handler is bound to something that the CPU has.

#ifndef JAX_ROIPOOL_CSRC_CUDA_STREAM_H_
#define JAX_ROIPOOL_CSRC_CUDA_STREAM_H_

#include "cuda/device.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cuda {

struct StreamContext {};

}  // namespace jax_roipool::cuda

template <>
struct xla::ffi::CtxDecoding<jax_roipool::cuda::StreamContext> {
  using Type = jax_roipool::cuda::Stream;
  static std::optional<Type> Decode(const XLA_FFI_Api*,
                                    XLA_FFI_ExecutionContext*,
                                    DiagnosticEngine&) {
    return Type{};
  }
};

#endif  // JAX_ROIPOOL_CSRC_CUDA_STREAM_H_
