// Arithmetic of which each operation rounds on its own, in float32 or float64.
//
// Host files that include this are compiled with -ffp-contract=off; the device
// has functions that no compiler fuses.

#ifndef JAX_ROIPOOL_CSRC_CORE_FLOAT32_H_
#define JAX_ROIPOOL_CSRC_CORE_FLOAT32_H_

#include "core/host_device.h"

namespace jax_roipool {

JAX_ROIPOOL_HOST_DEVICE inline float Sum(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
JAX_ROIPOOL_HOST_DEVICE inline double Sum(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

JAX_ROIPOOL_HOST_DEVICE inline float Product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
JAX_ROIPOOL_HOST_DEVICE inline double Product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

JAX_ROIPOOL_HOST_DEVICE inline float Quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
JAX_ROIPOOL_HOST_DEVICE inline double Quotient(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __ddiv_rn(a, b);
#else
  return a / b;
#endif
}

template <typename T>
JAX_ROIPOOL_HOST_DEVICE inline bool IsFinite(T x) {
  // x - x is 0 for a finite x and NaN otherwise.
  return x - x == 0;
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_FLOAT32_H_
