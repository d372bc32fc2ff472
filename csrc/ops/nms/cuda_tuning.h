// The numbers that decide speed and nothing else.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_TUNING_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_TUNING_H_

#include <cstdint>

#include "cuda/tuning.h"

namespace jax_roipool::cuda {

// Columns of a block that compares boxes: each of its threads has a row.
constexpr int64_t kColumnWords = 4;
constexpr int64_t kColumns = kColumnWords * kWarp;

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CUDA_TUNING_H_
