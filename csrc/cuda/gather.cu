// Placeholder that the build is proven with.

#include <cuda_runtime_api.h>

namespace jax_roipool::cuda {
namespace {

template <typename T>
__global__ void CopyKernel(const T* values, T* result) {
  extern __shared__ float staged[];
  staged[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  result[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

}  // namespace

cudaError_t LaunchCopy(cudaStream_t stream, const void* values, void* result) {
  CopyKernel<<<1, 128, 128 * sizeof(float), stream>>>(
      static_cast<const float*>(values), static_cast<float*>(result));
  return cudaGetLastError();
}

}  // namespace jax_roipool::cuda
