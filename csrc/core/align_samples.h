// Where the samples of RoIAlign lie: the only place that knows it.
//
// Host and device code. The Python twin is
// jax_roipool/geometry/align_samples.py.
//
// Geometry is in the type of the boxes, float32 or float64, and each operation
// rounds on its own (float32.h): a fused multiply-add would move a sample
// across the border of the map, and with it a whole feature.

#ifndef JAX_ROIPOOL_CSRC_CORE_ALIGN_SAMPLES_H_
#define JAX_ROIPOOL_CSRC_CORE_ALIGN_SAMPLES_H_

#include <cstdint>

#include "core/float32.h"
#include "core/host_device.h"

namespace jax_roipool {
namespace {

// One axis of a RoI on the feature map. T is float or double.
template <typename T>
struct SampleAxis {
  T start;          // of the RoI, in cells
  T bin_size;       // in cells; below 0 where the box is reversed
  int64_t samples;  // per bin; 0 where the RoI has none
  bool shortest;    // whether the box was shorter than the one cell that a RoI
                    // is at least
};

// A RoI of so many cells has no samples: float32 counts no further.
constexpr double kMostSampledCells = 16777216;

// `samples` per bin, 0 for as many as a bin has cells. A RoI of which a corner
// is not finite has none.
template <typename T>
JAX_ROIPOOL_HOST_DEVICE inline SampleAxis<T> MakeSampleAxis(T low, T high,
                                                            float scale,
                                                            int64_t num_bins,
                                                            int64_t samples,
                                                            bool aligned) {
  const T offset = static_cast<T>(aligned ? -0.5 : 0.0);
  const T start = Sum(Product(low, static_cast<T>(scale)), offset);
  const T end = Sum(Product(high, static_cast<T>(scale)), offset);
  T length = Sum(end, -start);
  const bool shortest = !aligned && length < 1;
  if (shortest) length = 1;
  // Finite corners may be infinite once they are scaled.
  if (!IsFinite(start) || !IsFinite(end) || length >= kMostSampledCells ||
      length <= -kMostSampledCells) {
    return {0, 0, 0, false};
  }
  const T bin_size = Quotient(length, static_cast<T>(num_bins));
  if (samples == 0 && bin_size > 0) {
    samples = static_cast<int64_t>(bin_size);  // rounded up
    samples += static_cast<int64_t>(static_cast<T>(samples) < bin_size);
  }
  return {start, bin_size, samples, shortest};
}

// One bin of an axis. Rounding keeps the order of its samples: from one to the
// next coordinates never fall, or never rise where the box is reversed.
template <typename T>
class SampledBin {
 public:
  JAX_ROIPOOL_HOST_DEVICE SampledBin(const SampleAxis<T>& axis, int64_t bin)
      : axis_(axis),
        begin_(Sum(axis.start, Product(static_cast<T>(bin), axis.bin_size))) {}

  JAX_ROIPOOL_HOST_DEVICE T Coordinate(int64_t sample) const {
    const T middle = Sum(static_cast<T>(sample), static_cast<T>(0.5));
    return Sum(begin_, Quotient(Product(middle, axis_.bin_size),
                                static_cast<T>(axis_.samples)));
  }

  // visit(sample, coordinate) for the samples inside of a map of `extent`
  // cells, by rising coordinate. Of many samples only those are looked at.
  template <class Visit>
  JAX_ROIPOOL_HOST_DEVICE void ForEachInside(int64_t extent,
                                             const Visit& visit) const {
    if (extent <= 0) return;
    const T border = static_cast<T>(extent);
    const bool reversed = axis_.bin_size < 0;
    int64_t begin = 0, end = axis_.samples;
    if (end > kFew) {
      // Mirrored, coordinates of a reversed bin rise too.
      begin = FirstAt(reversed ? -border : -1, reversed, false);
      end = FirstAt(reversed ? 1 : border, reversed, true);
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = reversed ? begin + end - 1 - i : i;
      const T at = Coordinate(sample);
      if (at >= -1 && at <= border) visit(sample, at);
    }
  }

 private:
  // So many are looked at sooner than the first and last inside are found.
  static constexpr int64_t kFew = 16;

  // The first sample at `border` or, where `beyond`, beyond it.
  JAX_ROIPOOL_HOST_DEVICE int64_t FirstAt(T border, bool mirrored,
                                          bool beyond) const {
    int64_t begin = 0, end = axis_.samples;
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      const T at = mirrored ? -Coordinate(middle) : Coordinate(middle);
      if (beyond ? at > border : at >= border) {
        end = middle;
      } else {
        begin = middle + 1;
      }
    }
    return begin;
  }

  const SampleAxis<T> axis_;
  const T begin_;
};

// The cells around a sample that is inside of a map of `extent` cells.
template <typename T>
struct SampleCells {
  int32_t cell;  // and the one after it, of weight 0 where there is none
  T far;         // the weight of that one; of `cell` the rest of 1
  bool flat;     // whether moving the sample changes nothing
};
template <typename T>
JAX_ROIPOOL_HOST_DEVICE inline SampleCells<T> CellsOf(T coordinate,
                                                      int64_t extent) {
  // As a T the last cell may be rounded up; no int32 is made of what is not
  // below it.
  if (coordinate >= static_cast<T>(extent - 1)) {
    return {static_cast<int32_t>(extent - 1), 0, true};
  }
  if (coordinate < 0) return {0, 0, true};
  const auto cell = static_cast<int32_t>(coordinate);
  return {cell, coordinate - static_cast<T>(cell), false};
}

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_ALIGN_SAMPLES_H_
