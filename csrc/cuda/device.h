// All that kernels and their launches use of CUDA, in one place.
//
// Kernels are also run on the host, as tests, one fiber per CUDA thread: there
// tests/cuda/on_host/cuda/device.h stands in for this file. So what a kernel
// needs beyond __syncthreads, __syncwarp, __shfl_sync, __match_any_sync,
// __ballot_sync, __any_sync, __ffs and __popc belongs here and there.

#ifndef JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_
#define JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace jax_roipool::cuda {

using Stream = cudaStream_t;
using Status = cudaError_t;
constexpr Status kSuccess = cudaSuccess;

inline const char* Describe(Status status) {
  return cudaGetErrorString(status);
}

// The present device, as far as it decides how work is cut.
struct Device {
  int multiprocessors;
  int64_t shared_bytes;           // a block's, at most
  int64_t shared_bytes_together;  // of all blocks of a multiprocessor
};

inline Status QueryDevice(Device* device) {
  int ordinal, multiprocessors, block, together;
  Status status = cudaGetDevice(&ordinal);
  if (status != kSuccess) return status;
  const auto query = [&](cudaDeviceAttr attribute, int* value) {
    if (status == kSuccess) {
      status = cudaDeviceGetAttribute(value, attribute, ordinal);
    }
  };
  query(cudaDevAttrMultiProcessorCount, &multiprocessors);
  query(cudaDevAttrMaxSharedMemoryPerBlockOptin, &block);
  query(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &together);
  if (status == kSuccess) *device = {multiprocessors, block, together};
  return status;
}

// Before a loop: its loads may be issued that many turns ahead.
#define JAX_ROIPOOL_PRAGMA(text) _Pragma(#text)
#define JAX_ROIPOOL_UNROLL(turns) JAX_ROIPOOL_PRAGMA(unroll turns)

#if defined(__CUDACC__)  // what only nvcc compiles

// Starts `blocks` blocks of `threads` threads that share `shared_bytes` each.
// Allocates nothing and waits for nothing, as a CUDA graph demands.
template <typename Arguments>
Status Launch(void (*kernel)(Arguments), int64_t blocks, int threads,
              int64_t shared_bytes, Stream stream, const Arguments& arguments) {
  constexpr int64_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const Status status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
        static_cast<int>(shared_bytes));
    if (status != kSuccess) return status;
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(
      arguments);
  return cudaGetLastError();
}

// The memory that the block's threads share, as much as the launch asked for.
__device__ inline unsigned char* SharedMemory() {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  return shared_memory;
}
#endif

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_
