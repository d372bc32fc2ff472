// The CUDA handlers with their kernels on the host, for ctypes.

#include <cstdint>
#include <string_view>

#include "core/handlers.h"
#include "fibers.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

// The handler of an op, null where there is none.
EXPORTED XLA_FFI_Handler* cuda_on_host_handler(const char* op) {
  using jax_roipool::RegisteredHandler;
  for (const auto* handler = RegisteredHandler::First(); handler != nullptr;
       handler = handler->next()) {
    if (std::string_view(op) == handler->op()) return handler->function();
  }
  return nullptr;
}

EXPORTED void cuda_on_host_seed(uint64_t seed) {
  jax_roipool::cuda_on_host::Seed(seed);
}
EXPORTED int64_t cuda_on_host_blocks_run() {
  return jax_roipool::cuda_on_host::BlocksRun();
}
