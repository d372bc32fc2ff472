// Placeholder that the build is proven with.

#ifndef JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_
#define JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_roipool::cuda {

cudaError_t LaunchMax(cudaStream_t stream, const void* values, void* result,
                      int64_t count);
cudaError_t LaunchSum(cudaStream_t stream, const void* values, void* result,
                      int64_t count);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_KERNELS_H_
