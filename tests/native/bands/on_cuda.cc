#include <cstdint>

#include "bands/calls.h"
#include "guarded.h"
#include "op.h"
#include "ops/bands/cuda.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

// The workspace flush with a page at either end, where it can be: it begins
// where a vector may.
template <class BandsCallType>
bool Run(const Call& call, const BandsCallType& bands) {
  static auto* const workspace = new Guarded;
  workspace->Place((cuda::BandsWorkspace(bands) + 15) / 16 * 16, call.flush);
  return cuda::RunBands(bands, workspace->data(), {}) == cuda::kSuccess &&
         workspace->AroundIsWhole();
}

template <BandKind kKind>
bool Apply(const Call& call, const Arrays& arrays, const Way&) {
  return Run(call, BandsApplyCallOf(call, arrays, kKind));
}

template <BandKind kKind>
bool Transpose(const Call& call, const Arrays& arrays, const Way&) {
  return Run(call, BandsTransposeCallOf(call, arrays, kKind));
}

bool BoxGradient(const Call& call, const Arrays& arrays, const Way&) {
  return Run(call, BandsBoxGradientCallOf(call, arrays));
}

const Registered<Runner> average_pool({"roi_average_pool",
                                       Apply<BandKind::kMean>});
const Registered<Runner> average_pool_transpose({"roi_average_pool_transpose",
                                                 Transpose<BandKind::kMean>});
const Registered<Runner> align({"roi_align", Apply<BandKind::kAlign>});
const Registered<Runner> align_transpose({"roi_align_transpose",
                                          Transpose<BandKind::kAlign>});
const Registered<Runner> align_box_gradient({"roi_align_box_gradient",
                                             BoxGradient});

}  // namespace
}  // namespace jax_roipool::native
