// The first greatest of a bin's cells, as jnp.argmax has it: a NaN beats
// numbers, the first of equals stays, +0 equals -0.

#ifndef JAX_ROIPOOL_CSRC_CUDA_BEST_H_
#define JAX_ROIPOOL_CSRC_CUDA_BEST_H_

#include <cstdint>
#include <limits>

#include "cuda/device.h"

namespace jax_roipool::cuda {

template <typename Number>
constexpr Number kInfinity = std::numeric_limits<Number>::infinity();

// Without kArgmax only the value is kept.
template <typename Number, bool kArgmax>
struct Best {
  Number value;
  int32_t cell;

  // Before any cell. `first` is the first of them, which stays where all are
  // -inf; -1 where there is none.
  __device__ static Best Before(int32_t first) {
    return {-kInfinity<Number>, first};
  }

  // A cell that comes after all those seen.
  __device__ void See(Number number, int32_t at) {
    if (!(number <= value) && value == value) {
      value = number;
      if (kArgmax) cell = at;
    }
  }

  // The best of other cells, which may come before some of those seen.
  __device__ void Merge(const Best& other) {
    bool better = !(other.value <= value) && value == value;
    if (kArgmax) {
      const bool worse = !(value <= other.value) && other.value == other.value;
      const bool before = cell < 0 || other.cell < cell;
      better = other.cell >= 0 && (better || (!worse && before));
    }
    if (better) *this = other;
  }
};

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_BEST_H_
