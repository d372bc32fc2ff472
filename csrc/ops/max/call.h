// A call of max pooling, with argmax or without, on any platform.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_

#include <cstdint>

#include "core/sizes.h"

namespace jax_roipool {

struct MaxPoolCall : RoiCall {
  Scale scales[kMaxLevels];
  const void* features[kMaxLevels];
  const float* boxes;
  void* pooled;
  int32_t* argmax;  // null where it is not wanted
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_
