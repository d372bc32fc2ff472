// Whether one box suppresses another, of any size.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_OVERLAP_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_OVERLAP_H_

#include "core/boxes.h"
#include "core/float32.h"
#include "cuda/device.h"
#include "ops/nms/call.h"

namespace jax_roipool::cuda {
namespace {  // as in core/half.h

// Along one axis: the sides of two boxes, and of what they share.
struct Lengths {
  float a, b, shared;
};

__device__ inline float Greater(float a, float b) { return a > b ? a : b; }

__device__ inline Lengths LengthsOf(float a1, float a2, float b1, float b2,
                                    float pixel) {
  const float low = Greater(a1, b1), high = a2 < b2 ? a2 : b2;
  return {a2 - a1 + pixel, b2 - b1 + pixel, high - low + pixel};
}
// The same with all that is long made shorter.
__device__ inline Lengths ShorterLengthsOf(float a1, float a2, float b1,
                                           float b2, float pixel) {
  return LengthsOf(Product(a1, kShorter), Product(a2, kShorter),
                   Product(b1, kShorter), Product(b2, kShorter),
                   Product(pixel, kShorter));
}

__device__ inline float AreaOf(float width, float height) {
  return width > 0 && height > 0 ? Product(width, height) : 0.0f;
}

__device__ inline bool Suppresses(const Box& a, const Box& b, bool inclusive,
                                  float threshold) {
  const float pixel = inclusive ? 1.0f : 0.0f;
  Lengths x = LengthsOf(a.x1, a.x2, b.x1, b.x2, pixel);
  Lengths y = LengthsOf(a.y1, a.y2, b.y1, b.y2, pixel);
  float areas = AreaOf(x.a, y.a) + AreaOf(x.b, y.b);
  if (!(areas - areas == 0.0f)) {  // they overflow
    if (Greater(x.a, x.b) > kLongSide) {
      x = ShorterLengthsOf(a.x1, a.x2, b.x1, b.x2, pixel);
    }
    if (Greater(y.a, y.b) > kLongSide) {
      y = ShorterLengthsOf(a.y1, a.y2, b.y1, b.y2, pixel);
    }
    areas = AreaOf(x.a, y.a) + AreaOf(x.b, y.b);
  }
  const float shared = AreaOf(x.shared, y.shared);
  // An overlap of 0 is above no threshold but a negative one.
  if (!(shared > 0)) return 0.0f > threshold;
  const float whole = areas - shared;
  // Where the quotient is above the threshold, the shared area is no less than
  // the rounded product: rounding changes no order. Most boxes need no
  // division.
  return shared >= Product(whole, threshold) &&
         Quotient(shared, whole) > threshold;
}

}  // namespace
}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_OVERLAP_H_
