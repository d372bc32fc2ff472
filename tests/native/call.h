// One call of all ops, made of arbitrary bytes: the arrays that they are
// handed.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_CALL_H_
#define JAX_ROIPOOL_TESTS_NATIVE_CALL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "definition.h"
#include "guarded.h"
#include "sizes.h"

namespace jax_roipool::native {

// Bytes as numbers; zeros once they are used up, so that any bytes will do.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  uint32_t Word() {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | Byte();
    return word;
  }
  uint64_t LongWord() {
    const uint64_t high = Word();
    return high << 32 | Word();
  }
  template <typename T, size_t kCount>
  T Of(const T (&values)[kCount]) {
    return values[Byte() % kCount];
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

// Numbers in no order, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) { Next(), Next(); }
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1d;
  }
  // Next() >> 32 scaled: no division, which would take longest of all here.
  uint32_t Below(uint32_t limit) {
    return static_cast<uint32_t>((Next() >> 32) * limit >> 32);
  }

 private:
  uint64_t state_;
};

using Bits = std::vector<unsigned char>;

struct Call {
  Sizes sizes;
  Scale scales[kMaxLevels];
  std::vector<float> boxes;          // [groups, rois, 4]
  std::vector<int32_t> image_index;  // [groups, rois]
  std::vector<int32_t> level;        // the same, where there are several
  Bits map, cotangent;               // elements; of maps level after level
  std::vector<int32_t> cells;        // an argmax, as ops are handed it
  // What max pooling must give, of which those cells are made.
  std::vector<double> pooled;
  std::vector<int32_t> argmax;
  int64_t threads;
  uint64_t seed;  // of what the result may not depend on
  Flush flush;
  // Of ops that have samples.
  bool aligned;
  int64_t samples[2];              // rows, columns
  std::vector<double> wide_boxes;  // as `boxes`, where float64 ones are used

  definition::Indices indices() const {
    return {image_index.data(), level.empty() ? nullptr : level.data()};
  }
  std::string Describe() const;
};

// The call of one of its levels alone: RoIs of others are empty.
Call OfLevel(const Call& call, int level);

// Sizes are small; one call of a hundred is larger. Where sums are not taken
// one after another, cotangents are small integers, so that the order does not
// matter.
Call MakeCall(Reader* bytes, bool sums_in_order);
Call MakeCallOf(const Sizes& sizes, Reader* bytes, bool sums_in_order);

// Of what kind the numbers are that a call does not say; see call.cc.
struct Kinds {
  uint8_t cotangent, cells;
};

// Fills in what follows from a call's sizes, boxes, image indices, map and
// seed.
void Finish(Kinds kinds, Call* call);

std::vector<double> Widened(Element element, const Bits& bits);

// Each number rounded once to the type of an element.
void RoundTo(Element element, std::vector<double>* values);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_CALL_H_
