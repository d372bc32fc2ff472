// What nms means: greedy, one pair of boxes after another.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_DEFINITION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace jax_roipool::definition {

// Along one axis, for two boxes: their sides and what they share.
struct Lengths {
  float a, b, shared;
};

inline Lengths LengthsOf(float a1, float a2, float b1, float b2, float pixel,
                         bool shorter) {
  const int by = shorter ? -66 : 0;
  for (float* number : {&a1, &a2, &b1, &b2, &pixel}) {
    *number = std::ldexp(*number, by);
  }
  const auto length = [pixel](float low, float high) {
    const float side = high - low;
    return side + pixel;
  };
  return {length(a1, a2), length(b1, b2),
          length(std::max(a1, b1), std::min(a2, b2))};
}

inline float Area(float width, float height) {
  return width > 0 && height > 0 ? width * height : 0;
}

// Intersection over union of finite boxes.
inline float Overlap(const float* a, const float* b, bool inclusive) {
  const float pixel = inclusive ? 1 : 0;
  Lengths x = LengthsOf(a[0], a[2], b[0], b[2], pixel, false);
  Lengths y = LengthsOf(a[1], a[3], b[1], b[3], pixel, false);
  if (x.a < 0 || x.b < 0 || y.a < 0 || y.b < 0) return 0;
  if (std::isinf(Area(x.a, y.a) + Area(x.b, y.b))) {
    const float kLong = std::ldexp(1.0f, 60);
    const bool wide = std::max(x.a, x.b) > kLong;
    const bool high = std::max(y.a, y.b) > kLong;
    x = LengthsOf(a[0], a[2], b[0], b[2], pixel, wide);
    y = LengthsOf(a[1], a[3], b[1], b[3], pixel, high);
  }
  const float shared = Area(x.shared, y.shared);
  const float both = Area(x.a, y.a) + Area(x.b, y.b);
  const float whole = both - shared;
  return whole > 0 ? shared / whole : 0;
}

// Of one group: the best that is left, then without what it suppresses.
inline std::vector<int32_t> Nms(const float* corners, const int32_t* keys,
                                const int32_t* classes, int64_t boxes,
                                float threshold, int64_t outputs,
                                bool inclusive) {
  std::vector<int32_t> chosen, left;
  for (int32_t i = 0; i < boxes; ++i) {
    if (keys[i] != INT32_MIN) left.push_back(i);
  }
  while (!left.empty() && static_cast<int64_t>(chosen.size()) < outputs) {
    // The first of the greatest.
    const int32_t best = *std::max_element(
        left.begin(), left.end(),
        [keys](int32_t i, int32_t j) { return keys[i] < keys[j]; });
    chosen.push_back(best);
    std::vector<int32_t> stay;
    for (const int32_t i : left) {
      const bool suppressed =
          classes[i] == classes[best] &&
          Overlap(corners + 4 * best, corners + 4 * i, inclusive) > threshold;
      if (i != best && !suppressed) stay.push_back(i);
    }
    left = stay;
  }
  chosen.resize(static_cast<size_t>(outputs), -1);
  return chosen;
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_NMS_NMS_DEFINITION_H_
