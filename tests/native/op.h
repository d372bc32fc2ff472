// An op as tests know it: what its handler is handed and gives, and what it
// must give. Each op registers itself in a folder of its own; drivers and fuzz
// targets run over all of them.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_OP_H_
#define JAX_ROIPOOL_TESTS_NATIVE_OP_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "call.h"

namespace jax_roipool::native {

// An array that a handler reads or writes, in its shape and type.
enum class Array {
  // Of a call.
  kMap,         // maps, elements
  kBoxes,       // boxes, float32
  kWideBoxes,   // boxes, float64
  kImageIndex,  // image indices, int32
  kLevel,       // image indices, int32; of calls of several levels
  kCells,       // results, int32
  kCotangent,   // results, elements
  // Of an op.
  kPooled,       // results, elements
  kArgmax,       // results, int32
  kGradient,     // maps, elements
  kBoxGradient,  // boxes, in their type
};
constexpr int kNumArrays = 11;

inline bool HasMapShape(Array array) {
  return array == Array::kMap || array == Array::kGradient;
}
inline bool HasPooledShape(Array array) {
  return array == Array::kCells || array == Array::kCotangent ||
         array == Array::kPooled || array == Array::kArgmax;
}

// The tolerance of a number of which sums overflow.
constexpr double kAnyNumber = std::numeric_limits<double>::infinity();

inline bool HasBoxesShape(Array array) {
  return array == Array::kBoxes || array == Array::kWideBoxes ||
         array == Array::kBoxGradient;
}

// What a result must hold: cells where it is int32, else numbers. Without
// tolerances these are of the result's type; else a number may be whatever lies
// so near before it is rounded.
struct Wanted {
  std::vector<double> numbers;
  std::vector<int32_t> cells;
  std::vector<double> tolerances = {};

  bool empty() const { return numbers.empty() && cells.empty(); }
};

struct Op {
  const char* name;                      // of the handler
  std::vector<Array> operands, results;  // kLevel not said
  bool scaled;             // whether it has scales among its attributes
  bool scratch_for_a_roi;  // whether scratch memory grows with a RoI's bins
  // One for each result.
  std::vector<Wanted> (*expect)(const Call& call);
  // Whether it has samples, and boxes that may be float64.
  bool sampled = false;

  // Whether this array alone tells how many bins there are.
  bool AloneWithBins(Array array) const {
    int count = 0;
    for (const auto* arrays : {&operands, &results}) {
      for (const Array each : *arrays) count += HasPooledShape(each);
    }
    return HasPooledShape(array) && count == 1;
  }
};

// Objects of static storage that stand in a list: ops, and what a backend does
// with them.
template <class Item>
class Registered {
 public:
  explicit Registered(Item item) { All().push_back(std::move(item)); }
  static std::vector<Item>& All() {
    static std::vector<Item> all;
    return all;
  }
};

// An op whose calls are of its own kind. How it is fuzzed: gives how many times
// it has reached a kernel.
struct Fuzzed {
  int64_t (*run)(Reader* bytes);
};

// All ops, by their names.
const std::vector<Op>& Ops();
const Op& OpNamed(const std::string& name);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_OP_H_
