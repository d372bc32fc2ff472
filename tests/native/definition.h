// What the ops mean, in plain loops over doubles: what they have in common.
// Each op's own is beside its tests, in folders of ops.
//
// Written from docs/design/bins.md and from the contract of the public
// functions; of csrc it knows the names of sizes alone, not how a coordinate
// becomes a cell (caffe_bins.h), how halves are rounded (half.h) or how work is
// divided. The twin in Python is tests/oracle/roi_pool.py.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "sizes.h"

namespace jax_roipool::definition {

// --- Elements as doubles

// A 16-bit float with `fraction` bits of fraction; powers of two from
// `lowest` to `highest`.
struct HalfFormat {
  int fraction, lowest, highest;
};
inline HalfFormat FormatOf(Element element) {
  return element == Element::kFloat16 ? HalfFormat{10, -14, 15}
                                      : HalfFormat{7, -126, 127};
}

inline double WidenHalf(HalfFormat format, uint16_t bits) {
  const int one = 1 << format.fraction;
  const int fraction = bits % one, power = (bits & 0x7fff) / one;
  double value;
  if (power == format.highest - format.lowest + 2) {
    value = fraction == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  } else if (power == 0) {
    value = std::ldexp(fraction, format.lowest - format.fraction);
  } else {
    value =
        std::ldexp(one + fraction, format.lowest + power - 1 - format.fraction);
  }
  return bits >= 0x8000 ? -value : value;
}

inline uint16_t RoundToHalf(HalfFormat format, double value) {
  const int one = 1 << format.fraction;
  const int infinity = (format.highest - format.lowest + 2) * one;
  const int sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return static_cast<uint16_t>(infinity + one / 2);
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  if (std::isinf(value)) return static_cast<uint16_t>(sign + infinity);
  const int power = std::max(std::ilogb(magnitude), format.lowest);
  // In units of the last place: to nearest, ties to even. A value that rounds
  // up to the next power of two has that one's bits.
  const double units =
      std::nearbyint(std::ldexp(magnitude, format.fraction - power));
  const double bits = units + static_cast<double>(power - format.lowest) * one;
  return static_cast<uint16_t>(
      sign + (bits < infinity ? static_cast<int>(bits) : infinity));
}

inline double Load(Element element, const void* array, int64_t index) {
  switch (element) {
    case Element::kFloat64:
      return static_cast<const double*>(array)[index];
    case Element::kFloat32:
      return static_cast<const float*>(array)[index];
    default:
      return WidenHalf(FormatOf(element),
                       static_cast<const uint16_t*>(array)[index]);
  }
}

// Rounds once.
inline void Store(Element element, double value, void* array, int64_t index) {
  switch (element) {
    case Element::kFloat64:
      static_cast<double*>(array)[index] = value;
      break;
    case Element::kFloat32:
      static_cast<float*>(array)[index] = static_cast<float>(value);
      break;
    default:
      static_cast<uint16_t*>(array)[index] =
          RoundToHalf(FormatOf(element), value);
  }
}

// --- Bins

struct Span {
  int64_t begin, end;
};

inline int64_t CellOf(float coordinate, float scale) {
  const float scaled = coordinate * scale;
  const float rounded = std::round(scaled);  // half away from zero
  return static_cast<int64_t>(std::min(std::max(rounded, -0x1p24f), 0x1p24f));
}

inline Span BinOf(float low, float high, float scale, int64_t bins, int64_t bin,
                  int64_t extent) {
  const int64_t first = CellOf(low, scale), last = CellOf(high, scale);
  const int64_t length = std::max<int64_t>(last - first + 1, 1);
  const float size = static_cast<float>(length) / static_cast<float>(bins);
  const float begin = std::floor(static_cast<float>(bin) * size);
  const float end = std::ceil(static_cast<float>(bin + 1) * size);
  return {std::clamp<int64_t>(first + static_cast<int64_t>(begin), 0, extent),
          std::clamp<int64_t>(first + static_cast<int64_t>(end), 0, extent)};
}

// --- Where numbers stand

struct Place {
  int64_t height, width, channels;
  bool last;  // channels
  int64_t first = 0;

  int64_t operator()(int64_t array, int64_t row, int64_t column,
                     int64_t channel) const {
    return first +
           (last
                ? ((array * height + row) * width + column) * channels + channel
                : ((array * channels + channel) * height + row) * width +
                      column);
  }
};
// Levels stand one after another.
inline Place MapPlace(const Sizes& p, int level) {
  return {p.height(level), p.width(level), p.maps.channels,
          p.maps.layout == Layout::kNHWC, p.numbers_before(level)};
}
inline Place PooledPlace(const Sizes& p) {
  return {p.bins.height, p.bins.width, p.bins.channels,
          p.maps.layout == Layout::kNHWC};
}

// What names the map of each RoI; there is no level where there is but one.
struct Indices {
  const int32_t* image;
  const int32_t* level = nullptr;
};

// The level of a RoI, 0 where it is none.
inline int LevelOf(const Sizes& p, Indices indices, int64_t roi) {
  const int level = indices.level == nullptr ? 0 : indices.level[roi];
  return level < 0 || level >= p.levels() ? 0 : level;
}

// The map of that level that a RoI's indices name, or -1.
inline int64_t MapOf(const Sizes& p, Indices indices, int64_t roi) {
  const int64_t image = indices.image[roi];
  if (image < 0 || image >= p.maps.images) return -1;
  if (indices.level != nullptr &&
      (indices.level[roi] < 0 || indices.level[roi] >= p.levels())) {
    return -1;
  }
  return roi / p.rois.per_group * p.maps.images + image;
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_
