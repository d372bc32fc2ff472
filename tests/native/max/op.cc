// roi_pool and roi_pool_argmax as tests know them.

#include "op.h"

namespace jax_roipool::native {
namespace {

const Registered<Op> pool({
    "roi_pool",
    {Array::kMap, Array::kBoxes, Array::kImageIndex},
    {Array::kPooled},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/true,
    [](const Call& call) { return std::vector<Wanted>{{call.pooled, {}}}; },
});
const Registered<Op> pool_argmax({
    "roi_pool_argmax",
    {Array::kMap, Array::kBoxes, Array::kImageIndex},
    {Array::kPooled, Array::kArgmax},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/true,
    [](const Call& call) {
      return std::vector<Wanted>{{call.pooled, {}}, {{}, call.argmax}};
    },
});

}  // namespace
}  // namespace jax_roipool::native
