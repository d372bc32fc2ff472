// The first greatest of a bin's cells, as they are seen.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_BEST_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_BEST_H_

#include <cstdint>
#include <limits>

#include "core/compare.h"
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
    if (Beats<true>(number, value)) {
      value = number;
      if (kArgmax) cell = at;
    }
  }

  // The best of other cells, which may come before some of those seen.
  __device__ void Merge(const Best& other) {
    bool better;
    if constexpr (kArgmax) {
      // As unsigned, a cell that is none comes after all others.
      better =
          BeatsInAnyOrder<true>(other.value, static_cast<uint32_t>(other.cell),
                                value, static_cast<uint32_t>(cell));
    } else {
      better = Beats<true>(other.value, value);
    }
    if (better) *this = other;
  }
};

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_BEST_H_
