// What the ops mean, in plain loops over doubles.
//
// Written from docs/design/bins.md and from the contract of the public
// functions; of csrc it knows the names of sizes alone, not how a coordinate
// becomes a pixel (geometry.h), how halves are rounded (half.h) or how work is
// divided. The twin in Python is tests/oracle.py.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "problem.h"

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

  int64_t operator()(int64_t array, int64_t row, int64_t column,
                     int64_t channel) const {
    return last
               ? ((array * height + row) * width + column) * channels + channel
               : ((array * channels + channel) * height + row) * width + column;
  }
};
inline Place MapPlace(const Problem& p) {
  return {p.height, p.width, p.channels, p.layout == Layout::kNHWC};
}
inline Place PooledPlace(const Problem& p) {
  return {p.pooled_height, p.pooled_width, p.channels,
          p.layout == Layout::kNHWC};
}

// Over all groups.
inline int64_t RoiCount(const Problem& p) { return p.groups * p.rois; }
inline int64_t MapCount(const Problem& p) { return p.groups * p.images; }
inline int64_t PooledCount(const Problem& p) {
  return RoiCount(p) * p.pooled_height * p.pooled_width * p.channels;
}
inline int64_t FeatureCount(const Problem& p) {
  return MapCount(p) * p.height * p.width * p.channels;
}

// The map that a RoI's index names, or -1.
inline int64_t MapOf(const Problem& p, const int32_t* image, int64_t roi) {
  if (image[roi] < 0 || image[roi] >= p.images) return -1;
  return roi / p.rois * p.images + image[roi];
}

// --- The ops

inline void Pool(const Problem& p, Scale scale, const double* map,
                 const float* boxes, const int32_t* image, double* pooled,
                 int32_t* argmax) {
  const Place from = MapPlace(p), to = PooledPlace(p);
  for (int64_t k = 0; k < RoiCount(p); ++k) {
    const float* box = boxes + 4 * k;  // x1, y1, x2, y2
    int64_t of = MapOf(p, image, k);
    for (int side = 0; side < 4; ++side) {
      if (!std::isfinite(box[side])) of = -1;
    }
    for (int64_t i = 0; i < p.pooled_height; ++i) {
      for (int64_t j = 0; j < p.pooled_width; ++j) {
        Span rows{0, 0}, columns{0, 0};
        if (of >= 0) {
          rows =
              BinOf(box[1], box[3], scale.height, p.pooled_height, i, p.height);
          columns =
              BinOf(box[0], box[2], scale.width, p.pooled_width, j, p.width);
        }
        for (int64_t c = 0; c < p.channels; ++c) {
          double best = 0;
          int64_t cell = -1;
          for (int64_t y = rows.begin; y < rows.end; ++y) {
            for (int64_t x = columns.begin; x < columns.end; ++x) {
              const double value = map[from(of, y, x, c)];
              if (cell < 0 || value > best ||
                  (std::isnan(value) && !std::isnan(best))) {
                best = value;
                cell = y * p.width + x;
              }
            }
          }
          pooled[to(k, i, j, c)] = best;
          argmax[to(k, i, j, c)] = static_cast<int32_t>(cell);
        }
      }
    }
  }
}

// Both linear ops, RoI by RoI and bin by bin: visit(place in pooled, place in
// the map or -1 where argmax or the image's index names none).
template <typename Visit>
void ForEachEntry(const Problem& p, const int32_t* image, const int32_t* argmax,
                  const Visit& visit) {
  const Place in_map = MapPlace(p), in_pooled = PooledPlace(p);
  for (int64_t k = 0; k < RoiCount(p); ++k) {
    const int64_t of = MapOf(p, image, k);
    for (int64_t i = 0; i < p.pooled_height; ++i) {
      for (int64_t j = 0; j < p.pooled_width; ++j) {
        for (int64_t c = 0; c < p.channels; ++c) {
          const int64_t place = in_pooled(k, i, j, c);
          const int64_t cell = argmax[place];
          const bool one = of >= 0 && cell >= 0 && cell < p.height * p.width;
          visit(place,
                one ? in_map(of, cell / p.width, cell % p.width, c) : -1);
        }
      }
    }
  }
}

inline void Gather(const Problem& p, const double* map, const int32_t* image,
                   const int32_t* argmax, double* pooled) {
  ForEachEntry(p, image, argmax, [&](int64_t place, int64_t from) {
    pooled[place] = from < 0 ? 0 : map[from];
  });
}

// Sums in float32, of float64 in float64, one after another; `gradient` is not
// yet rounded to the element's type.
inline void Scatter(const Problem& p, const double* cotangent,
                    const int32_t* image, const int32_t* argmax,
                    double* gradient) {
  const bool wide = p.element == Element::kFloat64;
  std::fill(gradient, gradient + FeatureCount(p), 0.0);
  ForEachEntry(p, image, argmax, [&](int64_t place, int64_t to) {
    if (to < 0) return;
    if (wide) {
      gradient[to] += cotangent[place];
    } else {
      gradient[to] = static_cast<float>(gradient[to]) +
                     static_cast<float>(cotangent[place]);
    }
  });
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_DEFINITION_H_
