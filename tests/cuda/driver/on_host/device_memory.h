// Stands in for on_device/device_memory.h where kernels run on the host.

#ifndef JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_
#define JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/device.h"
#include "fibers.h"

namespace jax_roipool::driver {

// Few multiprocessors, so that calls are not cut into a thousand blocks.
inline cuda::Status QueryPresent(cuda::Device* device) {
  *device = {16, 227 << 10, 228 << 10};
  return cuda::kSuccess;
}

inline cuda::Status Allocate(size_t bytes, void** memory) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cuda::kSuccess : cuda::kFailure;
}
inline cuda::Status Free(void* memory) {
  std::free(memory);
  return cuda::kSuccess;
}
inline cuda::Status CopyIn(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return cuda::kSuccess;
}
inline cuda::Status CopyOut(void* to, const void* from, size_t bytes) {
  return CopyIn(to, from, bytes);
}

inline cuda::Status MakeStream(cuda::Stream*) { return cuda::kSuccess; }
inline cuda::Status Wait(cuda::Stream) { return cuda::kSuccess; }

// Fibers and blocks run in another order. Every third turn has the device with
// the most shared memory, which a launch is held to.
inline void NextOrder() {
  static uint64_t turn = 0;
  cuda_on_host::Seed(turn);
  turn += 3;
  cuda::Device ignored;
  cuda::QueryDevice(&ignored);
}

inline cuda::Status Finish(cuda::Stream) { return cuda::kSuccess; }

inline std::string DeviceName() { return "the host, one fiber per thread"; }

}  // namespace jax_roipool::driver

#endif  // JAX_ROIPOOL_TESTS_CUDA_DRIVER_DEVICE_MEMORY_H_
