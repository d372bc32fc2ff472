// Arrays past 2^31 elements.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_LIMITS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_LIMITS_H_

namespace jax_roipool::native {

// On every target; says what it found and aborts where that is wrong.
int RunLimits();

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_LIMITS_H_
