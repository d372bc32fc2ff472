// Bands: which cells a bin reads along one axis, and with which weights. What
// the ops of this folder differ in, and nothing else.
//
// One RoI is `rows . map . columns`, where each entry of a band is a cell and
// its weight, divided already by what a mean is divided by: sums of large
// features do not overflow. Host and device code; an op more is a struct more
// here, with
//
//   Corner                   the type of boxes, float or double
//   Axis MakeAxis(low, high, scale, num_bins)
//   Range Reach(axis, num_bins, extent)
//     cells outside of which no bin has entries
//   MakeBin<kWeights>(axis, bin, extent, put)
//     calls put(cell, weights) by rising cell, for no cell twice and for none
//     whose weights are all 0
//
// A bin of kValue has the weight of a cell alone; one of kSlopes, after it, the
// derivatives of that weight along the lower and the upper corner of the box.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_BANDS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_BANDS_H_

#include <cstdint>

#include "core/align_samples.h"
#include "core/caffe_bins.h"
#include "core/host_device.h"
#include "core/sizes.h"

namespace jax_roipool {

// Weights of an entry.
constexpr int kValue = 1, kSlopes = 3;

enum class BandKind { kMean, kAlign };

// Of one axis.
struct AxisRule {
  int64_t samples;  // per bin, of kAlign; 0 for as many as a bin has cells
  bool aligned;     // of kAlign
};

namespace {

// The mean over the cells of Caffe's bins.
struct MeanBands {
  using Corner = float;
  using Axis = BinAxis;

  AxisRule rule;

  JAX_ROIPOOL_HOST_DEVICE Axis MakeAxis(float low, float high, float scale,
                                        int64_t num_bins) const {
    return MakeBinAxis(low, high, scale, num_bins);
  }

  JAX_ROIPOOL_HOST_DEVICE static Range Reach(const Axis& axis, int64_t num_bins,
                                             int64_t extent) {
    return {BinRange(axis, 0, extent).begin,
            BinRange(axis, num_bins - 1, extent).end};
  }

  template <int kWeights, class Put>
  JAX_ROIPOOL_HOST_DEVICE static void MakeBin(const Axis& axis, int64_t bin,
                                              int64_t extent, Put&& put) {
    const Range cells = BinRange(axis, bin, extent);
    // A mean has no slopes.
    const double weights[kWeights] = {1.0 / (cells.end - cells.begin)};
    for (int32_t cell = cells.begin; cell < cells.end; ++cell)
      put(cell, weights);
  }
};

// Sums the weights of cells that come by rising number, two neighbours at once,
// and puts each cell once, its weights divided.
template <int kWeights, class Put>
class MergedCells {
 public:
  JAX_ROIPOOL_HOST_DEVICE MergedCells(Put& put, double divisor)
      : put_(put), divisor_(divisor) {}

  JAX_ROIPOOL_HOST_DEVICE void Add(int32_t cell, const double* near,
                                   const double* far) {
    if (cell != cell_) {
      PutCell(cell_, near_);
      const bool next = cell == cell_ + 1;
      if (!next) PutCell(cell_ + 1, far_);
      for (int i = 0; i < kWeights; ++i) {
        near_[i] = next ? far_[i] : 0;
        far_[i] = 0;
      }
      cell_ = cell;
    }
    for (int i = 0; i < kWeights; ++i) {
      near_[i] += near[i];
      far_[i] += far[i];
    }
  }

  JAX_ROIPOOL_HOST_DEVICE void Finish() {
    PutCell(cell_, near_);
    PutCell(cell_ + 1, far_);
  }

 private:
  JAX_ROIPOOL_HOST_DEVICE void PutCell(int32_t cell, const double* weights) {
    bool some = false;
    double divided[kWeights];
    for (int i = 0; i < kWeights; ++i) {
      some |= weights[i] != 0;
      divided[i] = weights[i] / divisor_;
    }
    if (some) put_(cell, divided);
  }

  Put& put_;
  const double divisor_;
  int32_t cell_ = -2;  // none, nor a neighbour of one
  double near_[kWeights] = {}, far_[kWeights] = {};
};

// RoIAlign's samples. Weights are summed in float64, for there may be many
// samples to a cell.
template <typename T>
struct AlignBands {
  using Corner = T;
  struct Axis {
    SampleAxis<T> samples;
    double scale;
    double num_bins;
  };

  AxisRule rule;

  JAX_ROIPOOL_HOST_DEVICE Axis MakeAxis(T low, T high, float scale,
                                        int64_t num_bins) const {
    return {
        MakeSampleAxis(low, high, scale, num_bins, rule.samples, rule.aligned),
        scale, static_cast<double>(num_bins)};
  }

  // Rounding moves the samples of one bin past those of the next by less than
  // the cells that are added here.
  JAX_ROIPOOL_HOST_DEVICE static Range Reach(const Axis& axis, int64_t num_bins,
                                             int64_t extent) {
    const int64_t samples = axis.samples.samples;
    if (samples <= 0) return {0, 0};
    const T a = SampledBin<T>(axis.samples, 0).Coordinate(0);
    const T b =
        SampledBin<T>(axis.samples, num_bins - 1).Coordinate(samples - 1);
    const T more =
        4 + (a < 0 ? -a : a) * 0x1p-21f + (b < 0 ? -b : b) * 0x1p-21f;
    const T low = (a < b ? a : b) - more, high = (a < b ? b : a) + more + 1;
    const T border = static_cast<T>(extent);
    if (low >= border || high <= 0) return {0, 0};
    return {low > 0 ? static_cast<int32_t>(low) : 0,
            static_cast<int32_t>(high < border ? static_cast<int64_t>(high)
                                               : extent)};
  }

  template <int kWeights, class Put>
  JAX_ROIPOOL_HOST_DEVICE static void MakeBin(const Axis& axis, int64_t bin,
                                              int64_t extent, Put&& put) {
    MergedCells<kWeights, Put> merged(
        put, static_cast<double>(axis.samples.samples));
    SampledBin<T>(axis.samples, bin)
        .ForEachInside(extent, Adder<kWeights, Put>{axis, bin, extent, merged});
    merged.Finish();
  }

 private:
  // What one sample adds.
  template <int kWeights, class Put>
  struct Adder {
    const Axis& axis;
    int64_t bin, extent;
    MergedCells<kWeights, Put>& merged;

    JAX_ROIPOOL_HOST_DEVICE void operator()(int64_t sample,
                                            T coordinate) const {
      const SampleCells<T> at = CellsOf(coordinate, extent);
      double near[kWeights] = {}, far[kWeights] = {};
      far[0] = at.far;
      near[0] = 1 - far[0];
      if constexpr (kWeights == kSlopes) {
        if (!at.flat) {
          // The sample stands at low + t * (high - low), in cells.
          const double t = (static_cast<double>(bin) +
                            (static_cast<double>(sample) + 0.5) /
                                static_cast<double>(axis.samples.samples)) /
                           axis.num_bins;
          far[1] = axis.samples.shortest ? axis.scale : axis.scale * (1 - t);
          far[2] = axis.samples.shortest ? 0 : axis.scale * t;
          near[1] = -far[1];
          near[2] = -far[2];
        }
      }
      merged.Add(at.cell, near, far);
    }
  };
};

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_BANDS_H_
