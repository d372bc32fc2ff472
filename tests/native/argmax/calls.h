// Calls of argmax_gather and argmax_scatter from arrays of tests.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_

#include "arrays.h"
#include "call.h"
#include "ops/argmax/calls.h"

namespace jax_roipool::native {

inline ArgmaxGatherCall ArgmaxGatherCallOf(const Call& call,
                                           const Arrays& arrays) {
  return {call.sizes.maps,
          call.sizes.rois,
          call.sizes.bins,
          arrays.data(Array::kMap),
          arrays.as<int32_t>(Array::kImageIndex),
          arrays.as<int32_t>(Array::kCells),
          arrays.data(Array::kPooled)};
}

inline ArgmaxScatterCall ArgmaxScatterCallOf(const Call& call,
                                             const Arrays& arrays) {
  return {call.sizes.maps,
          call.sizes.rois,
          call.sizes.bins,
          arrays.data(Array::kCotangent),
          arrays.as<int32_t>(Array::kImageIndex),
          arrays.as<int32_t>(Array::kCells),
          arrays.data(Array::kGradient)};
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_
