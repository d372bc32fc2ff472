// The CUDA handlers with their kernels on the host, for ctypes.

#include <cstdint>

#include "cuda/handlers.h"
#include "fibers.h"

using jax_roipool::cuda::kHandlers;

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define EXPORT_HANDLER(name, index)                           \
  EXPORTED XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) {    \
    return kHandlers[index].function(frame);                  \
  }
EXPORT_HANDLER(jax_roipool_roi_pool, 0)
EXPORT_HANDLER(jax_roipool_roi_pool_argmax, 1)
EXPORT_HANDLER(jax_roipool_roi_gather, 2)
EXPORT_HANDLER(jax_roipool_roi_scatter, 3)

EXPORTED void cuda_on_host_seed(uint64_t seed) {
  jax_roipool::cuda_on_host::Seed(seed);
}
EXPORTED int64_t cuda_on_host_blocks_run() {
  return jax_roipool::cuda_on_host::BlocksRun();
}
