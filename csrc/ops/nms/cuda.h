// nms on CUDA: device pointers and sizes in, launches on a stream. Nothing
// waits, allocates or copies, so that every call can be recorded into a CUDA
// graph and replayed.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_H_

#include <cstdint>

#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/tuning.h"
#include "ops/nms/call.h"

namespace jax_roipool::cuda {

// Of each group. A bit stands for a box, by its place in the order of keys.
struct NmsWorkspace {
  int32_t* order;    // [boxes]
  int32_t* removed;  // [words]: which boxes are suppressed
  int32_t* mask;     // [words][rows]: which boxes a box suppresses
  int32_t* chosen;   // how many
  int64_t rows;      // boxes that are worked off at once, whole words
};

inline int64_t NmsWords(const NmsCall& call) {
  return CeilDiv(call.boxes, kWarp);
}

Status Nms(const NmsCall& call, const NmsWorkspace& workspace, Stream stream);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_H_
