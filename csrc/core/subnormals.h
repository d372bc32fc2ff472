// Arithmetic of the host as IEEE 754 has it.

#ifndef JAX_ROIPOOL_CSRC_CORE_SUBNORMALS_H_
#define JAX_ROIPOOL_CSRC_CORE_SUBNORMALS_H_

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace jax_roipool {

// XLA's threads flush subnormal numbers to zero, which would make 1e-40 tie
// with 0 in a bin. Kernels compare and add what is really there.
class SubnormalsKept {
 public:
#if defined(__SSE2__)
  SubnormalsKept() : saved_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    _mm_setcsr(saved_ & ~(kFlushToZero | kDenormalsAreZero));
  }
  ~SubnormalsKept() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  SubnormalsKept() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    constexpr uint64_t kFlushToZero = uint64_t{1} << 24;
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~kFlushToZero));
  }
  ~SubnormalsKept() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  SubnormalsKept() {}
#endif
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_SUBNORMALS_H_
