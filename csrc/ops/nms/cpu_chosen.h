// The boxes that are chosen so far, and whether they suppress another.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_

#include <cstdint>

#include "cpu/vectors.h"
#include "ops/nms/call.h"
#include "ops/nms/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

constexpr int kLanes = kVectorBytes / sizeof(float);
using Floats = Vector<float, kLanes>;
using Ints = Vector<int32_t, kLanes>;
static_assert(kBlockBoxes % kLanes == 0);

inline Floats Min(Floats a, Floats b) { return a < b ? a : b; }
inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }

// Of one box, or of as many as a vector has lanes.
template <typename T>
struct Corners {
  T x1, y1, x2, y2;
};
// Of a box; of a pixel, those that belong to each box's: 1 where corners are
// inclusive, else 0.
template <typename T>
struct Sides {
  T width, height;
};

template <typename T>
inline Sides<T> SidesOf(const Corners<T>& box, const Sides<T>& pixel) {
  return {box.x2 - box.x1 + pixel.width, box.y2 - box.y1 + pixel.height};
}

// What two boxes share.
inline Sides<Floats> SharedSides(const Corners<Floats>& a,
                                 const Corners<Floats>& b,
                                 const Sides<Floats>& pixel) {
  return SidesOf<Floats>(
      {Max(a.x1, b.x1), Max(a.y1, b.y1), Min(a.x2, b.x2), Min(a.y2, b.y2)},
      pixel);
}

// 0 where a side is not above 0.
inline Floats Area(const Sides<Floats>& sides) {
  const Floats zero{};
  const Ints some = (sides.width > zero) & (sides.height > zero);
  return some ? sides.width * sides.height : zero;
}

// Intersection over union, of areas whose sum is `areas`.
inline Floats Overlap(const Corners<Floats>& a, const Corners<Floats>& b,
                      const Sides<Floats>& pixel, Floats areas) {
  const Floats zero{};
  const Floats shared = Area(SharedSides(a, b, pixel));
  // Where areas share something their union is above 0.
  return shared > zero ? shared / (areas - shared) : zero;
}

// The same of boxes of any size: where areas overflow, long sides are made
// shorter, along each axis.
inline Floats OverlapOfAnySize(const Corners<Floats>& a,
                               const Corners<Floats>& b,
                               const Sides<Floats>& pixel) {
  const Floats one = Floats{} + 1.0f;
  const Sides<Floats> of_a = SidesOf(a, pixel), of_b = SidesOf(b, pixel);
  const Ints overflows = ~(Area(of_a) + Area(of_b) < __builtin_inff());
  const Ints wide = Max(of_a.width, of_b.width) > kLongSide;
  const Ints high = Max(of_a.height, of_b.height) > kLongSide;
  const Floats x = (overflows & wide) ? one * kShorter : one;
  const Floats y = (overflows & high) ? one * kShorter : one;
  const Corners<Floats> short_a = {a.x1 * x, a.y1 * y, a.x2 * x, a.y2 * y};
  const Corners<Floats> short_b = {b.x1 * x, b.y1 * y, b.x2 * x, b.y2 * y};
  const Sides<Floats> of_pixel = {pixel.width * x, pixel.height * y};
  return Overlap(
      short_a, short_b, of_pixel,
      Area(SidesOf(short_a, of_pixel)) + Area(SidesOf(short_b, of_pixel)));
}

class Chosen {
 public:
  Chosen(bool inclusive, float threshold, const NmsScratch& scratch)
      : threshold_(threshold),
        share_(LeastShare(threshold)),
        // An overlap of 0 is above no threshold but a negative one.
        usual_(!(threshold < 0)),
        pixel_{Floats{} + (inclusive ? 1.0f : 0.0f),
               Floats{} + (inclusive ? 1.0f : 0.0f)},
        next_(scratch.blocks),
        buckets_(scratch.buckets) {
    for (int64_t i = 0; i < kBuckets; ++i) buckets_[i] = nullptr;
  }

  // Adds a box, unless one of those here suppresses it; whether it was added.
  bool Add(const Corners<float>& box, int32_t class_) {
    const float pixel = pixel_.width[0];
    const Sides<float> sides = SidesOf<float>(box, {pixel, pixel});
    const float area =
        sides.width > 0 && sides.height > 0 ? sides.width * sides.height : 0.0f;
    usual_ = usual_ && area < kLargeArea && !(area > 0 && area < kSmallArea);
    // Classes are mostly few, and near each other: by the golden ratio they
    // come apart.
    static_assert(kBuckets == 1 << 7);
    ChosenBlock** bucket =
        buckets_ + (static_cast<uint32_t>(class_) * 0x9e3779b9u >> (32 - 7));
    for (const ChosenBlock* block = *bucket; block != nullptr;
         block = block->next) {
      if (usual_ ? Suppresses<true>(*block, box, area, class_)
                 : Suppresses<false>(*block, box, area, class_)) {
        return false;
      }
    }
    if (*bucket == nullptr || (*bucket)->count == kBlockBoxes) {
      *bucket = NewBlock(*bucket);
    }
    Append(box, area, class_, *bucket);
    return true;
  }

 private:
  // Areas and thresholds of which no product with each other is subnormal.
  static constexpr float kSmallArea = 0x1p-100f, kSmallThreshold = 0x1p-20f;

  // Where overlap is above the threshold t, the shared area is more than
  // t / (1 + t) of the sum of areas: but for eight roundings at most, for which
  // this is less by 16. So it is seen without a division, which takes as long
  // as all the rest, that most boxes do not suppress each other.
  static float LeastShare(float t) {
    return t < kSmallThreshold ? 0.0f : t / (1.0f + t) * (1.0f - 0x1p-20f);
  }

  template <bool kUsual>
  bool Suppresses(const ChosenBlock& block, const Corners<float>& box,
                  float area, int32_t class_) const {
    const Floats zero{};
    const Corners<Floats> b = {zero + box.x1, zero + box.y1, zero + box.x2,
                               zero + box.y2};
    // Above 0, so that boxes which share nothing are seen to.
    const float share = share_ * area;
    const Floats least = zero + (share > 0 ? share : 0x1p-149f);
    for (int64_t i = 0; i < block.count; i += kLanes) {
      const Corners<Floats> a = {
          Load<Floats>(block.x1 + i), Load<Floats>(block.y1 + i),
          Load<Floats>(block.x2 + i), Load<Floats>(block.y2 + i)};
      if (kUsual) {
        const Sides<Floats> shared = SharedSides(a, b, pixel_);
        // Without a height above 0 this is not above 0 either.
        const Floats area_shared = Max(shared.width, zero) * shared.height;
        const Floats enough = Load<Floats>(block.share + i) + least;
        if (SignBits(area_shared - enough) == kAllLanes) continue;
      }
      const Floats overlap =
          kUsual ? Overlap(a, b, pixel_, Load<Floats>(block.area + i) + area)
                 : OverlapOfAnySize(a, b, pixel_);
      const Ints suppressed =
          (overlap > threshold_) & (Load<Ints>(block.classes + i) == class_);
      const int64_t here = block.count - i;
      const uint32_t filled =
          here < kLanes ? (uint32_t{1} << here) - 1 : kAllLanes;
      if ((SignBits(reinterpret_cast<Floats>(suppressed)) & filled) != 0) {
        return true;
      }
    }
    return false;
  }

  ChosenBlock* NewBlock(ChosenBlock* next) {
    ChosenBlock* block = next_++;
    block->count = 0;
    block->next = next;
    // What is not filled yet shares nothing with any box.
    for (int64_t i = 0; i < kBlockBoxes; ++i) {
      block->x1[i] = block->y1[i] = __builtin_inff();
      block->x2[i] = block->y2[i] = -__builtin_inff();
      block->area[i] = block->share[i] = 1.0f;
      block->classes[i] = 0;
    }
    return block;
  }

  void Append(const Corners<float>& box, float area, int32_t class_,
              ChosenBlock* block) const {
    const int64_t i = block->count++;
    block->x1[i] = box.x1;
    block->y1[i] = box.y1;
    block->x2[i] = box.x2;
    block->y2[i] = box.y2;
    block->area[i] = area;
    block->share[i] = share_ * area;
    block->classes[i] = class_;
  }

  const float threshold_, share_;
  bool usual_;  // whether areas so far, and the threshold, are
  const Sides<Floats> pixel_;
  ChosenBlock* next_;
  ChosenBlock** const buckets_;
};

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CPU_CHOSEN_H_
