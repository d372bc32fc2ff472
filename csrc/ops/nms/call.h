// A call of nms on any platform: greedy non-maximum suppression.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CALL_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CALL_H_

#include <cstdint>

namespace jax_roipool {

struct NmsCall {
  int64_t groups;        // each with boxes, a threshold and results of its own
  int64_t boxes;         // of a group, below 2^31
  int64_t outputs;       // of a group
  bool inclusive;        // a side is x2 - x1 + 1
  const float* corners;  // [groups, boxes, 4]
  const int32_t* keys;   // [groups, boxes]: the greater goes first
  const int32_t* classes;   // [groups, boxes]: equal ones suppress each other
  const float* thresholds;  // [groups]
  int32_t* indices;         // [groups, outputs]: the chosen, then -1
};

// The key of a box that is never chosen and suppresses nothing.
constexpr int32_t kNeverChosen = INT32_MIN;

// Boxes of which the area overflows float32, alone or with another's, are
// compared with sides that are shorter by a power of two, axis by axis: those
// longer than kLongSide by kShorter.
constexpr float kLargeArea = 0x1p127f;  // the sum of two below is finite
constexpr float kLongSide = 0x1p60f;
constexpr float kShorter = 0x1p-66f;

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CALL_H_
