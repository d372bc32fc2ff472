// Ops without XLA, on one backend: what each op's file registers, and running
// all of them on a call.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_RUN_OPS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_RUN_OPS_H_

#include <cstdint>

#include "arrays.h"
#include "call.h"

namespace jax_roipool::native {

// Whether the backend adds up entry after
// entry, as definitions do.
extern const bool kSumsInOrder;

// Runs every op on all that the backend has, instruction sets or devices, and
// compares. Gives how many times an op has reached a kernel; says what is wrong
// and aborts where something is.
int64_t RunOps(const Call& call);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_RUN_OPS_H_
