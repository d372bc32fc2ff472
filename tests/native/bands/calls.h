// Calls of the ops that apply bands from arrays of tests.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_BANDS_CALLS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_BANDS_CALLS_H_

#include <algorithm>

#include "arrays.h"
#include "call.h"
#include "ops/bands/calls.h"

namespace jax_roipool::native {

template <class BandsCallType>
BandsCallType BandsCallOf(const Call& call, const Arrays& arrays,
                          BandKind kind) {
  BandsCallType bands{};
  static_cast<RoiCall&>(bands) = RoiCallOf(call, arrays);
  bands.kind = kind;
  std::copy_n(call.scales, kMaxLevels, bands.scales);
  bands.boxes = arrays.data(Array::kBoxes);
  if (kind == BandKind::kAlign) {
    bands.rows = {call.samples[0], call.aligned};
    bands.columns = {call.samples[1], call.aligned};
    bands.wide_boxes = !call.wide_boxes.empty();
    if (bands.wide_boxes) bands.boxes = arrays.data(Array::kWideBoxes);
  }
  return bands;
}

inline BandsApplyCall BandsApplyCallOf(const Call& call, const Arrays& arrays,
                                       BandKind kind) {
  auto bands = BandsCallOf<BandsApplyCall>(call, arrays, kind);
  arrays.GetLevels(call, Array::kMap, bands.features);
  bands.pooled = arrays.data(Array::kPooled);
  return bands;
}

inline BandsTransposeCall BandsTransposeCallOf(const Call& call,
                                               const Arrays& arrays,
                                               BandKind kind) {
  auto bands = BandsCallOf<BandsTransposeCall>(call, arrays, kind);
  bands.cotangent = arrays.data(Array::kCotangent);
  arrays.GetLevels(call, Array::kGradient, bands.gradients);
  return bands;
}

inline BandsBoxGradientCall BandsBoxGradientCallOf(const Call& call,
                                                   const Arrays& arrays) {
  auto bands =
      BandsCallOf<BandsBoxGradientCall>(call, arrays, BandKind::kAlign);
  arrays.GetLevels(call, Array::kMap, bands.features);
  bands.cotangent = arrays.data(Array::kCotangent);
  bands.gradient = arrays.data(Array::kBoxGradient);
  return bands;
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_BANDS_CALLS_H_
