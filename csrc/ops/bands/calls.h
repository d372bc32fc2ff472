// Calls of the ops that apply bands, on any platform: a map to bins, its
// transpose, and the gradient of boxes.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CALLS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CALLS_H_

#include <cstdint>

#include "core/sizes.h"
#include "ops/bands/bands.h"

namespace jax_roipool {

// What all of them have. `boxes` are float64 where `wide_boxes`, else float32.
struct BandsCall : RoiCall {
  BandKind kind;
  AxisRule rows, columns;
  Scale scales[kMaxLevels];
  const void* boxes;
  bool wide_boxes;
};

struct BandsApplyCall : BandsCall {
  const void* features[kMaxLevels];
  void* pooled;
};

struct BandsTransposeCall : BandsCall {
  const void* cotangent;
  void* gradients[kMaxLevels];
};

// The derivatives of the sum of cotangent * pooled by the corners of each box,
// in the boxes' type.
struct BandsBoxGradientCall : BandsCall {
  const void* features[kMaxLevels];
  const void* cotangent;
  void* gradient;  // [RoIs, 4]
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CALLS_H_
