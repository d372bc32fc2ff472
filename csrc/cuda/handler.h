// What CUDA handlers have in common.
//
// A handler reads its buffers, checks them and launches kernels on XLA's
// stream. It waits for nothing and allocates nothing, on the host or on the
// device, unless it has an error to tell: so a CUDA graph may record it once
// and replay it. A workspace is a result of the call, which XLA allocates.

#ifndef JAX_ROIPOOL_CSRC_CUDA_HANDLER_H_
#define JAX_ROIPOOL_CSRC_CUDA_HANDLER_H_

#include <string>

#include "cuda/device.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cuda {

inline xla::ffi::Error ErrorOf(Status status) {
  if (status == kSuccess) return xla::ffi::Error::Success();
  return xla::ffi::Error(
      xla::ffi::ErrorCode::kInternal,
      std::string("jax_roipool: CUDA says: ") + Describe(status));
}

// launch(device), unless the device cannot be asked.
template <typename Launch>
xla::ffi::Error OnDevice(const Launch& launch) {
  Device device;
  const Status status = QueryDevice(&device);
  return ErrorOf(status == kSuccess ? launch(device) : status);
}

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_HANDLER_H_
