// Stands in for csrc/cuda/device.h where kernels run on the host.
//
// Gives the words of CUDA that kernels use a meaning in C++: threads are fibers
// (fibers.h), memory is the host's. Nothing of the kernels knows.

#ifndef JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_
#define JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_

#include <cstdint>
#include <cstring>
#include <string>

#include "core/subnormals.h"
#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define JAX_ROIPOOL_UNROLL(turns)

#define threadIdx (::jax_roipool::cuda_on_host::ThreadIndex())
#define blockIdx (::jax_roipool::cuda_on_host::BlockIndex())
#define gridDim (::jax_roipool::cuda_on_host::GridSize())

namespace jax_roipool::cuda {

struct Stream {};
using Status = int;
constexpr Status kSuccess = 0;
constexpr Status kFailure = 1;

inline std::string& Failure() {
  static thread_local std::string failure;
  return failure;
}
inline const char* Describe(Status) { return Failure().c_str(); }

struct Device {
  int multiprocessors;
  int64_t shared_bytes;
  int64_t shared_bytes_together;
};

// A large device and small ones in turn, so that work is cut in every way.
inline const Device& PresentDevice(bool next) {
  static constexpr Device kDevices[] = {{132, 227 << 10, 228 << 10},
                                        {1, 40 << 10, 34 << 10},
                                        {6, 64 << 10, 64 << 10}};
  static thread_local uint64_t turn = 0;
  if (next) turn = cuda_on_host::NextTurn();
  return kDevices[turn % 3];
}
inline Status QueryDevice(Device* device) {
  *device = PresentDevice(true);
  return kSuccess;
}

template <typename Arguments>
Status Launch(void (*kernel)(Arguments), int64_t blocks, int threads,
              int64_t shared_bytes, Stream, const Arguments& arguments) {
  if (shared_bytes > PresentDevice(false).shared_bytes) {
    Failure() = std::to_string(shared_bytes) + " bytes of shared memory";
    return kFailure;
  }
  const SubnormalsKept as_devices_do;
  Failure() = cuda_on_host::Run(blocks, threads, shared_bytes,
                                [&] { kernel(arguments); });
  return Failure().empty() ? kSuccess : kFailure;
}

inline unsigned char* SharedMemory() { return cuda_on_host::SharedMemory(); }

}  // namespace jax_roipool::cuda

// Operations of a warp: what each lane brings, and what it makes of what all
// have brought.
namespace jax_roipool::cuda_on_host {
enum Operation { kSync, kBallot, kShuffle, kMatch };
}

inline void __syncthreads() { ::jax_roipool::cuda_on_host::WaitForBlock(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  using namespace ::jax_roipool::cuda_on_host;
  WaitForWarp(kSync, mask, 0);
}

inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  using namespace ::jax_roipool::cuda_on_host;
  const uint64_t* values = WaitForWarp(kBallot, mask, predicate);
  unsigned ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (values[lane] != 0) ballot |= 1u << lane;
  }
  return ballot;
}

inline bool __any_sync(unsigned mask, bool predicate) {
  return __ballot_sync(mask, predicate) != 0;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  using namespace ::jax_roipool::cuda_on_host;
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = WaitForWarp(kShuffle, mask, bits)[lane];
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned __match_any_sync(unsigned mask, int value) {
  using namespace ::jax_roipool::cuda_on_host;
  const auto bits = static_cast<uint32_t>(value);
  const uint64_t* values = WaitForWarp(kMatch, mask, bits);
  unsigned same = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) != 0 && values[lane] == bits) same |= 1u << lane;
  }
  return same;
}

inline int __ffs(unsigned bits) {
  return __builtin_ffs(static_cast<int>(bits));
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

#endif  // JAX_ROIPOOL_CSRC_CUDA_DEVICE_H_
