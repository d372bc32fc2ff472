// The device's memory, for driver.cu; on_host/ has the twin of this file.

#ifndef JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_
#define JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "cuda/device.h"

namespace jax_roipool::driver {

inline cuda::Status QueryPresent(cuda::Device* device) {
  return cuda::QueryDevice(device);
}

inline cuda::Status Allocate(size_t bytes, void** memory) {
  return cudaMalloc(memory, bytes);
}
inline cuda::Status Free(void* memory) { return cudaFree(memory); }
inline cuda::Status CopyIn(void* to, const void* from, size_t bytes) {
  return cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
}
inline cuda::Status CopyOut(void* to, const void* from, size_t bytes) {
  return cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}

inline cuda::Status MakeStream(cuda::Stream* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
}
inline cuda::Status Wait(cuda::Stream stream) {
  return cudaStreamSynchronize(stream);
}

// What comes before every launch: nothing.
inline void NextOrder() {}

// After the last launch; a leak is then one for compute-sanitizer too.
inline cuda::Status Finish(cuda::Stream stream) {
  const cuda::Status status = cudaStreamDestroy(stream);
  return status == cuda::kSuccess ? cudaDeviceReset() : status;
}

inline std::string DeviceName() {
  int ordinal;
  cudaDeviceProp properties;
  if (cudaGetDevice(&ordinal) != cudaSuccess ||
      cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) {
    return "unknown";
  }
  return properties.name;
}

}  // namespace jax_roipool::driver

#endif  // JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_
