// A call of max pooling from arrays of tests.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_

#include <algorithm>

#include "arrays.h"
#include "call.h"
#include "ops/max/call.h"

namespace jax_roipool::native {

inline MaxPoolCall MaxPoolCallOf(const Call& call, const Arrays& arrays,
                                 bool argmax) {
  MaxPoolCall pool{};
  static_cast<RoiCall&>(pool) = RoiCallOf(call, arrays);
  std::copy_n(call.scales, kMaxLevels, pool.scales);
  arrays.GetLevels(call, Array::kMap, pool.features);
  pool.boxes = arrays.as<float>(Array::kBoxes);
  pool.pooled = arrays.data(Array::kPooled);
  if (argmax) pool.argmax = arrays.as<int32_t>(Array::kArgmax);
  return pool;
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_MAX_CALLS_H_
