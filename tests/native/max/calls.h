// A call of max pooling from arrays of tests.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_

#include "arrays.h"
#include "call.h"
#include "ops/max/call.h"

namespace jax_roipool::native {

inline MaxPoolCall MaxPoolCallOf(const Call& call, const Arrays& arrays,
                                 bool argmax) {
  return {call.sizes.maps,
          call.sizes.rois,
          call.sizes.bins,
          call.scale,
          arrays.data(Array::kMap),
          arrays.as<float>(Array::kBoxes),
          arrays.as<int32_t>(Array::kImageIndex),
          arrays.data(Array::kPooled),
          argmax ? arrays.as<int32_t>(Array::kArgmax) : nullptr};
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_
