// Calls of argmax_gather and argmax_scatter from arrays of tests.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_

#include "arrays.h"
#include "call.h"
#include "ops/argmax/calls.h"

namespace jax_roipool::native {

inline ArgmaxGatherCall ArgmaxGatherCallOf(const Call& call,
                                           const Arrays& arrays) {
  ArgmaxGatherCall gather{RoiCallOf(call, arrays),
                          {},
                          arrays.as<int32_t>(Array::kCells),
                          arrays.data(Array::kPooled)};
  arrays.GetLevels(call, Array::kMap, gather.tangents);
  return gather;
}

inline ArgmaxScatterCall ArgmaxScatterCallOf(const Call& call,
                                             const Arrays& arrays) {
  ArgmaxScatterCall scatter{RoiCallOf(call, arrays),
                            arrays.data(Array::kCotangent),
                            arrays.as<int32_t>(Array::kCells),
                            {}};
  arrays.GetLevels(call, Array::kGradient, scatter.gradients);
  return scatter;
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_CALLS_H_
