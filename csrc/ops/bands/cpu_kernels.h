// The interface of the CPU's kernels that apply bands. A kernel runs one unit
// of work on the calling thread; it allocates nothing and knows neither XLA nor
// Python, nor what made the bands.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_KERNELS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_KERNELS_H_

#include <cstdint>

#include "core/sizes.h"
#include "cpu/dispatch.h"
#include "ops/bands/calls.h"
#include "ops/bands/cpu_bands.h"

namespace jax_roipool::cpu {

template <int kWeights>
struct BandsScratch {
  RoiBands<double, kWeights> wide;   // of float64 features
  RoiBands<float, kWeights> narrow;  // of others
  void* columns;   // a row of bins, combined in each column that a RoI reads
  void* tile;      // all bins of a RoI in a vector of channels; channels first
  void* sums;      // of a unit's cells, where they do not lie in the gradient
  void* products;  // of cotangents and columns, for each entry; of boxes
};

// The RoIs at places [roi_begin, roi_end) of the order, in channels
// [channel_begin, channel_end).
struct BandsUnit {
  int64_t roi_begin, roi_end;
  int64_t channel_begin, channel_end;
};

template <class Call>
struct PlannedBands : Call {
  const int64_t* order;   // RoIs as units name them
  const int64_t* map_of;  // RoI -> map, or -1 for an empty RoI
};

// Rows [row_begin, row_end) of a map, in channels [channel_begin, channel_end).
// Its RoIs are those at places [roi_begin, roi_end) of the order.
struct BandsTransposeUnit {
  int64_t map;
  int64_t roi_begin, roi_end;
  int64_t channel_begin, channel_end;
  int64_t row_begin, row_end;
};

struct PlannedBandsTranspose : BandsTransposeCall {
  const int64_t* order;
  const Range* rows;  // of a RoI at each place of the order: its reach
};

struct BandsKernels {
  int64_t vector_bytes;
  // What a column of a row of bins takes, in the channels that are done
  // together; and where it is combined with derivatives too.
  int64_t column_bytes, slopes_bytes;
  void (*apply[kNumElements])(const PlannedBands<BandsApplyCall>& call,
                              const BandsUnit& unit,
                              const BandsScratch<kValue>& scratch);
  void (*transpose[kNumElements])(const PlannedBandsTranspose& call,
                                  const BandsTransposeUnit& unit,
                                  const BandsScratch<kValue>& scratch);
  void (*box_gradient[kNumElements])(
      const PlannedBands<BandsBoxGradientCall>& call, const BandsUnit& unit,
      const BandsScratch<kSlopes>& scratch);
};
JAX_ROIPOOL_DECLARE_KERNELS(BandsKernels)

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_KERNELS_H_
