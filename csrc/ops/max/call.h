// A call of max pooling, with argmax or without, on any platform.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_

#include <cstdint>

#include "core/sizes.h"

namespace jax_roipool {

struct MaxPoolCall {
  Maps maps;
  Rois rois;
  Bins bins;
  Scale scale;
  const void* features;
  const float* boxes;
  const int32_t* image_index;
  void* pooled;
  int32_t* argmax;  // null where it is not wanted
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CALL_H_
