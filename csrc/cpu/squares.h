// Sizes of vectors, as far as plans must know them.

#ifndef JAX_ROIPOOL_CSRC_CPU_SQUARES_H_
#define JAX_ROIPOOL_CSRC_CPU_SQUARES_H_

#include <cstdint>

namespace jax_roipool::cpu {

// The widest vector of any instruction set.
constexpr int64_t kMaxVectorBytes = 64;

// Channels that kernels take together where they turn or tabulate a map: a
// vector of `vector_bytes`, whose lanes are no smaller than an index.
constexpr int64_t SquareSide(int64_t vector_bytes, int64_t element_bytes) {
  return vector_bytes / (element_bytes < 4 ? 4 : element_bytes);
}
constexpr int64_t kMaxSquareSide = SquareSide(kMaxVectorBytes, 4);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_SQUARES_H_
