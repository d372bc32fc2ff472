// The interface of the CPU's kernel of nms. It runs one unit of work on the
// calling thread, allocates nothing and knows neither XLA nor Python.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CPU_KERNELS_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CPU_KERNELS_H_

#include <cstdint>

#include "cpu/dispatch.h"
#include "ops/nms/call.h"

namespace jax_roipool::cpu {

struct NmsUnit {
  int64_t group;
};

// Chosen boxes, column by column. Blocks of a bucket form a list; a class is in
// one bucket, with others perhaps.
constexpr int64_t kBlockBoxes = 64;
constexpr int64_t kBuckets = 128;
struct alignas(64) ChosenBlock {
  float x1[kBlockBoxes], y1[kBlockBoxes], x2[kBlockBoxes], y2[kBlockBoxes];
  float area[kBlockBoxes];
  float share[kBlockBoxes];  // of the area that two boxes must share at least
  int32_t classes[kBlockBoxes];
  int64_t count;
  ChosenBlock* next;
};

// Digits of a key, from the lowest, by which candidates are sorted.
constexpr int kDigitBits = 11;
constexpr int kNumDigits = 3;
constexpr int64_t kDigitValues = int64_t{1} << kDigitBits;

struct NmsScratch {
  uint64_t* candidates[2];  // a group's
  uint32_t* counts;         // [kNumDigits][kDigitValues]
  ChosenBlock* blocks;
  ChosenBlock** buckets;
};

struct NmsKernels {
  void (*choose)(const NmsCall& call, const NmsUnit& unit,
                 const NmsScratch& scratch);
};
JAX_ROIPOOL_DECLARE_KERNELS(NmsKernels)

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CPU_KERNELS_H_
