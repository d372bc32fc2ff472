// Boxes as they lie in an operand.

#ifndef JAX_ROIPOOL_CSRC_CORE_BOXES_H_
#define JAX_ROIPOOL_CSRC_CORE_BOXES_H_

#include <cstdint>

#include "core/float32.h"
#include "core/host_device.h"

namespace jax_roipool {

// In pixels of the image.
struct Box {
  float x1, y1, x2, y2;
};

JAX_ROIPOOL_HOST_DEVICE inline Box LoadBox(const float* boxes, int64_t roi) {
  const float* box = boxes + 4 * roi;
  return {box[0], box[1], box[2], box[3]};
}

// A RoI whose box is not finite is empty.
JAX_ROIPOOL_HOST_DEVICE inline bool IsFinite(const Box& box) {
  return IsFinite(box.x1) && IsFinite(box.y1) && IsFinite(box.x2) &&
         IsFinite(box.y2);
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_BOXES_H_
