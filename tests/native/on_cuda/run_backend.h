// The CUDA kernels as C++ (tests/cuda/on_host), cut for several devices.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_
#define JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_

#include <cstdint>
#include <iterator>
#include <string>

#include "arrays.h"
#include "call.h"
#include "cuda/device.h"
#include "fibers.h"
#include "run_ops.h"

namespace jax_roipool::native {

// What there is to try on this backend: one of several devices, by the call.
using Way = cuda::Device;
inline std::string WayName(const Way& device) {
  return "CUDA, " + std::to_string(device.multiprocessors) + " multiprocessors";
}
template <typename Run>
void ForEachWay(const Call& call, const Run& run) {
  constexpr Way kDevices[] = {{16, 227 << 10, 228 << 10},
                              {1, 40 << 10, 34 << 10},
                              {6, 48 << 10, 64 << 10}};
  // A turn of the device with the most shared memory, to which launches are
  // held; see cuda/device.h beside fibers.h.
  cuda_on_host::Seed(3 * call.seed);
  Way ignored;
  cuda::QueryDevice(&ignored);
  run(kDevices[call.threads % std::size(kDevices)]);
}

// Runs one op; false where something is already found wrong.
struct Runner {
  const char* op;
  bool (*run)(const Call& call, const Arrays& arrays, const Way& device);
};

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_
