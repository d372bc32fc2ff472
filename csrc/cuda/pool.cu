// Placeholder that the build is proven with.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/kernels.h"

namespace jax_roipool::cuda {
namespace {

template <typename T>
__global__ void MaxKernel(const T* values, T* result, int64_t count) {
  extern __shared__ unsigned char scratch[];
  T* partial = reinterpret_cast<T*>(scratch);
  T best = T(0.f);
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    if (values[i] > best) best = values[i];
  }
  partial[threadIdx.x] = best;
  __syncthreads();
  for (unsigned i = 0; i < blockDim.x; ++i) {
    if (partial[i] > best) best = partial[i];
  }
  result[threadIdx.x] = best;
}

}  // namespace

cudaError_t LaunchMax(cudaStream_t stream, const void* values, void* result,
                      int64_t count) {
  MaxKernel<<<1, 128, 128 * sizeof(float), stream>>>(
      static_cast<const float*>(values), static_cast<float*>(result), count);
  MaxKernel<<<1, 128, 128 * sizeof(__half), stream>>>(
      static_cast<const __half*>(values), static_cast<__half*>(result), count);
  MaxKernel<<<1, 128, 128 * sizeof(__nv_bfloat16), stream>>>(
      static_cast<const __nv_bfloat16*>(values),
      static_cast<__nv_bfloat16*>(result), count);
  return cudaGetLastError();
}

}  // namespace jax_roipool::cuda
