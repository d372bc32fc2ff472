// Dividing calls that apply bands into units of work.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_PLANS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_PLANS_H_

#include <cstdint>
#include <vector>

#include "core/sizes.h"
#include "cpu/scratch.h"
#include "cpu/work.h"
#include "ops/bands/calls.h"
#include "ops/bands/cpu_bands.h"
#include "ops/bands/cpu_kernels.h"

namespace jax_roipool::cpu {

// What one thread needs.
struct BandsScratchSizes {
  BandsCall call;
  int64_t columns, tile, sums, products;  // bytes

  template <int kWeights>
  BandsScratch<kWeights> Cut(ScratchCutter* cutter) const {
    BandsScratch<kWeights> scratch{};
    if (call.maps.element == Element::kFloat64) {
      scratch.wide = CutBands<double, kWeights>(call, cutter);
    } else {
      scratch.narrow = CutBands<float, kWeights>(call, cutter);
    }
    scratch.columns = cutter->Cut(columns);
    scratch.tile = cutter->Cut(tile);
    scratch.sums = cutter->Cut(sums);
    scratch.products = cutter->Cut(products);
    return scratch;
  }
};

// Of BandsApplyCall and, with kSlopes, of BandsBoxGradientCall.
template <class Call, int kWeights>
struct BandsPlan {
  RoisByMap rois;
  std::vector<BandsUnit> units;
  int64_t helpers;
  BandsScratchSizes scratch;

  PlannedBands<Call> Planned(const Call& call) const {
    return {call, rois.order.data(), rois.map_of.data()};
  }
  BandsScratch<kWeights> CutScratch(ScratchCutter* cutter) const {
    return scratch.Cut<kWeights>(cutter);
  }
};
using BandsApplyPlan = BandsPlan<BandsApplyCall, kValue>;
using BandsBoxGradientPlan = BandsPlan<BandsBoxGradientCall, kSlopes>;

BandsApplyPlan PlanBandsApply(const BandsApplyCall& call,
                              const BandsKernels& kernels, int64_t threads);
BandsBoxGradientPlan PlanBandsBoxGradient(const BandsBoxGradientCall& call,
                                          const BandsKernels& kernels,
                                          int64_t threads);

struct BandsTransposePlan {
  RoisByMap rois;
  std::vector<Range> rows;  // of the RoI at each place of the order: its reach
  std::vector<BandsTransposeUnit> units;
  int64_t helpers;
  BandsScratchSizes scratch;

  PlannedBandsTranspose Planned(const BandsTransposeCall& call) const {
    return {call, rois.order.data(), rows.data()};
  }
  BandsScratch<kValue> CutScratch(ScratchCutter* cutter) const {
    return scratch.Cut<kValue>(cutter);
  }
};

BandsTransposePlan PlanBandsTranspose(const BandsTransposeCall& call,
                                      const BandsKernels& kernels,
                                      int64_t threads);

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_PLANS_H_
