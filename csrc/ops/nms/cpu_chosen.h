// The boxes that are chosen so far, and whether they suppress another.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_

#include <cstdint>

#include "cpu/vectors.h"
#include "ops/nms/call.h"
#include "ops/nms/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

constexpr int kBoxLanes = kVectorBytes / sizeof(float);
using Floats = Vector<float, kBoxLanes>;
using Ints = Vector<int32_t, kBoxLanes>;
static_assert(kBlockBoxes % kBoxLanes == 0);

inline Floats Min(Floats a, Floats b) { return a < b ? a : b; }
inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }

// A box, or as many as a vector has lanes, and the sides of a pixel, which
// belong to every side: 1 where corners are inclusive, else 0.
template <typename T>
struct Corners {
  T x1, y1, x2, y2;
};
template <typename T>
struct Sides {
  T width, height;
};

template <typename T>
inline Sides<T> SidesOf(const Corners<T>& box, const Sides<T>& pixel) {
  return {box.x2 - box.x1 + pixel.width, box.y2 - box.y1 + pixel.height};
}

// 0 where a side is not above 0. No side is NaN, and none infinite where
// another is 0.
inline Floats Area(const Sides<Floats>& sides) {
  const Floats zero{};
  return Max(sides.width, zero) * Max(sides.height, zero);
}

// Shared area and union of boxes.
struct Pair {
  Floats shared, whole;
};

inline Pair PairOf(const Corners<Floats>& a, const Corners<Floats>& b,
                   const Sides<Floats>& pixel, Floats areas) {
  const Corners<Floats> both = {Max(a.x1, b.x1), Max(a.y1, b.y1),
                                Min(a.x2, b.x2), Min(a.y2, b.y2)};
  const Floats shared = Area(SidesOf(both, pixel));
  return {shared, areas - shared};
}

// The same of boxes of any size.
inline Pair ScaledPairOf(const Corners<Floats>& a, const Corners<Floats>& b,
                         const Sides<Floats>& pixel, Floats areas) {
  const Floats one = Floats{} + 1.0f;
  const Ints overflows = ~(areas < __builtin_inff());
  const Sides<Floats> of_a = SidesOf(a, pixel), of_b = SidesOf(b, pixel);
  const Ints wide = Max(of_a.width, of_b.width) > kLongSide;
  const Ints high = Max(of_a.height, of_b.height) > kLongSide;
  const Floats x = (overflows & wide) ? one * kShorter : one;
  const Floats y = (overflows & high) ? one * kShorter : one;
  const auto shorter = [&](const Corners<Floats>& box) -> Corners<Floats> {
    return {box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y};
  };
  const Corners<Floats> short_a = shorter(a), short_b = shorter(b);
  const Sides<Floats> scaled = {pixel.width * x, pixel.height * y};
  return PairOf(short_a, short_b, scaled,
                Area(SidesOf(short_a, scaled)) + Area(SidesOf(short_b, scaled)));
}

class Chosen {
 public:
  Chosen(bool inclusive, float threshold, const NmsScratch& scratch)
      : pixel_(inclusive ? 1.0f : 0.0f),
        threshold_(threshold),
        // An overlap of 0 is above no threshold but a negative one.
        least_shared_(threshold < 0 ? -1.0f : 0x1p-149f),
        next_(scratch.blocks),
        buckets_(scratch.buckets) {
    for (int64_t i = 0; i < kBuckets; ++i) buckets_[i] = nullptr;
  }

  // Adds a box, unless one of those here suppresses it; whether it was added.
  bool Add(const Corners<float>& box, int32_t class_) {
    const Sides<float> sides = SidesOf<float>(box, {pixel_, pixel_});
    const float area = sides.width > 0 && sides.height > 0
                           ? sides.width * sides.height
                           : 0.0f;
    large_ = large_ || area >= kLargeArea;
    ChosenBlock** bucket = BucketOf(class_);
    for (const ChosenBlock* block = *bucket; block != nullptr;
         block = block->next) {
      if (large_ ? Suppress<ScaledPairOf>(*block, box, area, class_)
                 : Suppress<PairOf>(*block, box, area, class_)) {
        return false;
      }
    }
    Append(box, area, class_, bucket);
    return true;
  }

 private:
  // Classes are mostly few and near each other: a golden ratio keeps them
  // apart.
  ChosenBlock** BucketOf(int32_t class_) const {
    static_assert(kBuckets == 128);
    return buckets_ + (static_cast<uint32_t>(class_) * 0x9e3779b9u >> 25);
  }

  template <Pair (*kPairOf)(const Corners<Floats>&, const Corners<Floats>&,
                            const Sides<Floats>&, Floats)>
  bool Suppress(const ChosenBlock& block, const Corners<float>& box, float area,
                int32_t class_) const {
    const Floats zero{};
    const Corners<Floats> b = {zero + box.x1, zero + box.y1, zero + box.x2,
                               zero + box.y2};
    const Sides<Floats> pixel = {zero + pixel_, zero + pixel_};
    const auto pair_of = [&](int64_t i) {
      const Corners<Floats> a = {
          Load<Floats>(block.x1 + i), Load<Floats>(block.y1 + i),
          Load<Floats>(block.x2 + i), Load<Floats>(block.y2 + i)};
      return kPairOf(a, b, pixel, Load<Floats>(block.area + i) + area);
    };
    for (int64_t i = 0; i < block.count; i += kBoxLanes) {
      // Where the quotient is above the threshold, the shared area is at least
      // the rounded product: rounding changes no order. So a negative
      // difference decides, without a division, which takes as long as the
      // rest.
      const Pair pair = pair_of(i);
      const Floats product = pair.whole * threshold_;
      const Floats least = Max(product, zero + least_shared_);
      if (AllNegative(pair.shared - least)) continue;
      const Floats overlap =
          pair.shared > zero ? pair.shared / pair.whole : zero;
      const Ints suppressed =
          (overlap > threshold_) &
          (Load<Ints>(block.classes + i) == class_);
      for (int64_t lane = 0; lane < kBoxLanes && i + lane < block.count;
           ++lane) {
        if (suppressed[lane] != 0) return true;
      }
    }
    return false;
  }

  void Append(const Corners<float>& box, float area, int32_t class_,
              ChosenBlock** bucket) {
    if (*bucket == nullptr || (*bucket)->count == kBlockBoxes) {
      ChosenBlock* block = next_++;
      block->count = 0;
      block->next = *bucket;
      // What is not there yet shares nothing with any box.
      for (int64_t i = 0; i < kBlockBoxes; ++i) {
        block->x1[i] = block->y1[i] = __builtin_inff();
        block->x2[i] = block->y2[i] = -__builtin_inff();
        block->area[i] = 1.0f;
        block->classes[i] = 0;
      }
      *bucket = block;
    }
    ChosenBlock& block = **bucket;
    const int64_t i = block.count++;
    block.x1[i] = box.x1;
    block.y1[i] = box.y1;
    block.x2[i] = box.x2;
    block.y2[i] = box.y2;
    block.area[i] = area;
    block.classes[i] = class_;
  }

  const float pixel_, threshold_, least_shared_;
  ChosenBlock* next_;
  ChosenBlock** const buckets_;
  bool large_ = false;  // whether any area so far may overflow
};

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_
