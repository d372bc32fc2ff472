// A call of nms as tests make it, what it must give, and its arrays.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_INPUT_H_
#define JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_INPUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "call.h"
#include "guarded.h"
#include "ops/nms/call.h"

namespace jax_roipool::native {

struct NmsInput {
  int64_t groups, boxes, outputs;
  bool inclusive;
  std::vector<float> corners;
  std::vector<int32_t> keys, classes;
  std::vector<float> thresholds;
  // Whether a candidate is not finite: then nothing is said of the results but
  // that they name boxes.
  bool hostile;
  uint64_t seed;
  Flush flush;

  std::string Describe() const;
};

// Any bytes will do. Crowded boxes or few, of any size.
NmsInput MakeNmsInput(Reader* bytes);

std::vector<int32_t> ExpectNms(const NmsInput& input);

// The arrays of a call in guarded memory.
class NmsArrays {
 public:
  // The result is garbage.
  NmsCall Place(const NmsInput& input);
  // Whether the result is as expected, the operands are as they were, and
  // nothing beyond any was written to; says where not.
  bool Right(const NmsInput& input, const std::vector<int32_t>& expected) const;

 private:
  Guarded corners_, keys_, classes_, thresholds_, indices_;
};

// How a backend runs such a call in all ways that it has; false where something
// is already found wrong.
struct NmsRunner {
  bool (*run)(const NmsInput& input, const std::vector<int32_t>& expected);
};

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_INPUT_H_
