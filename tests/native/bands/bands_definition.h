// What the ops that apply bands mean: weights of cells along each axis, in
// float64 from geometry in the boxes' type, and plain sums.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_BANDS_BANDS_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_BANDS_BANDS_DEFINITION_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "definition.h"
#include "sizes.h"

namespace jax_roipool::definition {

// Of one bin: by cell the weight, and its derivatives along the lower and the
// upper corner.
using Bin = std::map<int64_t, std::array<double, 3>>;

inline std::vector<Bin> MeanAxis(float low, float high, float scale,
                                 int64_t bins, int64_t extent) {
  std::vector<Bin> axis(bins);
  for (int64_t p = 0; p < bins; ++p) {
    const Span span = BinOf(low, high, scale, bins, p, extent);
    for (int64_t cell = span.begin; cell < span.end; ++cell) {
      axis[p][cell] = {1.0 / static_cast<double>(span.end - span.begin), 0, 0};
    }
  }
  return axis;
}

template <typename T>
std::vector<Bin> AlignAxis(T low, T high, float scale, int64_t bins,
                           int64_t extent, int64_t samples, bool aligned) {
  std::vector<Bin> axis(bins);
  const T offset = aligned ? T{0.5} : T{0};
  const T first = low * T{scale}, last = high * T{scale};
  const T start = first - offset, end = last - offset;
  T length = end - start;
  const bool shortest = !aligned && length < 1;
  if (shortest) length = 1;
  if (!std::isfinite(start) || !std::isfinite(end) ||
      !(std::fabs(length) < T{0x1p24}) || extent == 0) {
    return axis;
  }
  const T size = length / static_cast<T>(bins);
  const T grid =
      samples > 0 ? static_cast<T>(samples) : std::max(std::ceil(size), T{0});
  for (int64_t p = 0; p < bins; ++p) {
    const T product = static_cast<T>(p) * size;
    const T begin = start + product;
    int64_t i = 0;
    auto to = static_cast<int64_t>(grid);
    if (to > 4096) {  // samples that may be inside, and some
      const double step = static_cast<double>(size) / static_cast<double>(grid);
      const double at = begin;
      i = std::max<int64_t>(i, static_cast<int64_t>((-1 - at) / step) - 64);
      to = std::min<int64_t>(
          to,
          static_cast<int64_t>((static_cast<double>(extent) - at) / step) + 64);
    }
    for (; i < to; ++i) {
      const T within = (static_cast<T>(i) + T{0.5}) * size;
      const T part = within / grid;
      const T y = begin + part;
      if (!(y >= -1 && y <= static_cast<T>(extent))) continue;
      const bool slopes = y >= 0 && y < static_cast<T>(extent - 1);
      const double at = std::clamp(static_cast<double>(y), 0.0,
                                   static_cast<double>(extent - 1));
      const auto cell = static_cast<int64_t>(std::floor(at));
      const double far = at - static_cast<double>(cell);
      const double t =
          (static_cast<double>(p) +
           (static_cast<double>(i) + 0.5) / static_cast<double>(grid)) /
          static_cast<double>(bins);
      const double low_slope = !slopes ? 0 : shortest ? scale : scale * (1 - t);
      const double high_slope = !slopes || shortest ? 0 : scale * t;
      const auto add = [&](int64_t at_cell, double weight, double sign) {
        auto& sums = axis[p][at_cell];
        sums[0] += weight / static_cast<double>(grid);
        sums[1] += sign * low_slope / static_cast<double>(grid);
        sums[2] += sign * high_slope / static_cast<double>(grid);
      };
      add(cell, 1 - far, -1);
      add(std::min(cell + 1, extent - 1), far, 1);
    }
  }
  return axis;
}

struct Axes {
  std::vector<Bin> rows, columns;
};

// visit(row, its weights, column, its weights) for the cells of one bin.
template <typename Visit>
void ForEachCell(const Axes& axes, int64_t p, int64_t q, const Visit& visit) {
  for (const auto& [row, of_row] : axes.rows[p]) {
    for (const auto& [column, of_column] : axes.columns[q]) {
      visit(row, of_row, column, of_column);
    }
  }
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_BANDS_BANDS_DEFINITION_H_
