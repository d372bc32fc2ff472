// The XLA FFI handlers of the CPU: the one place that knows XLA on this side.

#ifndef JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_

#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cpu {

struct Handler {
  const char* op;  // the target is "jax_roipool_" + op
  XLA_FFI_Handler* function;
};

extern const Handler kHandlers[4];

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_
