// Which instruction set the kernels use: the best that this CPU has, or the one
// that was forced.
//
// An op's kernels are one file, compiled once per instruction set, each time in
// a namespace of its own, which exports the op's table of kernels.

#ifndef JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_
#define JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_

#include <string_view>
#include <vector>

namespace jax_roipool::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

const char* NameOf(Isa isa);

// Those with kernels built in, best first, and those of them that this CPU can
// run.
std::vector<Isa> BuiltIsas();
const std::vector<Isa>& SupportedIsas();

// Makes `name` the instruction set of all later calls; false, and no change,
// where it is not supported here.
bool SetIsa(std::string_view name);

// The instruction set of this call. Read once per call, never within one.
Isa CurrentIsa();

// In namespace jax_roipool::cpu, declares an op's table of kernels for every
// instruction set and a function TYPE##For(isa) that gives the table of one.
#if defined(JAX_ROIPOOL_X86)
#define JAX_ROIPOOL_DECLARE_KERNELS(Type) \
  namespace baseline {                    \
  extern const Type k##Type;              \
  }                                       \
  namespace avx2 {                        \
  extern const Type k##Type;              \
  }                                       \
  namespace avx512 {                      \
  extern const Type k##Type;              \
  }                                       \
  inline const Type& Type##For(Isa isa) { \
    switch (isa) {                        \
      case Isa::kAvx512:                  \
        return avx512::k##Type;           \
      case Isa::kAvx2:                    \
        return avx2::k##Type;             \
      default:                            \
        return baseline::k##Type;         \
    }                                     \
  }
#else
#define JAX_ROIPOOL_DECLARE_KERNELS(Type) \
  namespace baseline {                    \
  extern const Type k##Type;              \
  }                                       \
  inline const Type& Type##For(Isa) { return baseline::k##Type; }
#endif

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_
