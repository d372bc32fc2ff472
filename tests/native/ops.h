// The ops of one backend, run on a call and compared with what it must give.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_OPS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_OPS_H_

#include <cstdint>

#include "call.h"

namespace jax_roipool::native {

// Whether scatter adds entry after entry, as the definition does.
extern const bool kSumsInOrder;

// Runs pooling with argmax and without, gather and scatter on every target of
// the backend. Gives how many times an op has reached a kernel; says what is
// wrong and aborts where something is.
int64_t RunOps(const Call& call);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_OPS_H_
