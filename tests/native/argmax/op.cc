// roi_gather and roi_scatter as tests know them.

#include "op.h"

#include "argmax/argmax_definition.h"

namespace jax_roipool::native {
namespace {

std::vector<Wanted> ExpectGather(const Call& call) {
  const Sizes& p = call.sizes;
  std::vector<double> pooled(p.pooled_numbers());
  definition::ArgmaxGather(p, Widened(p.maps.element, call.map).data(),
                           call.indices(), call.cells.data(), pooled.data());
  return {{pooled, {}}};
}

std::vector<Wanted> ExpectScatter(const Call& call) {
  const Sizes& p = call.sizes;
  std::vector<double> gradient(p.map_numbers());
  definition::ArgmaxScatter(p, Widened(p.maps.element, call.cotangent).data(),
                            call.indices(), call.cells.data(), gradient.data());
  RoundTo(p.maps.element, &gradient);
  return {{gradient, {}}};
}

const Registered<Op> gather({
    "roi_gather",
    {Array::kMap, Array::kImageIndex, Array::kCells},
    {Array::kPooled},
    /*scaled=*/false,
    /*scratch_for_a_roi=*/false,
    ExpectGather,
});
const Registered<Op> scatter({
    "roi_scatter",
    {Array::kCotangent, Array::kImageIndex, Array::kCells},
    {Array::kGradient},
    /*scaled=*/false,
    /*scratch_for_a_roi=*/false,
    ExpectScatter,
});

}  // namespace
}  // namespace jax_roipool::native
