// The XLA FFI handlers of the CPU: the one place that knows XLA on this side.

#ifndef JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_

#include "buffers.h"

namespace jax_roipool::cpu {

extern const Handler kHandlers[4];

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_HANDLERS_H_
