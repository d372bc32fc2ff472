#include "argmax/calls.h"
#include "guarded.h"
#include "op.h"
#include "ops/argmax/cuda.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

bool Gather(const Call& call, const Arrays& arrays, const Way& device) {
  return cuda::ArgmaxGather(ArgmaxGatherCallOf(call, arrays), device, {}) ==
         cuda::kSuccess;
}

bool Scatter(const Call& call, const Arrays& arrays, const Way& device) {
  static auto* const bounds = new Guarded;
  bounds->Place(call.image_index.size() * 8, call.flush);
  return cuda::ArgmaxScatter(ArgmaxScatterCallOf(call, arrays),
                             bounds->as<int32_t>(), device,
                             {}) == cuda::kSuccess &&
         bounds->AroundIsWhole();
}

const Registered<Runner> gather({"roi_gather", Gather});
const Registered<Runner> scatter({"roi_scatter", Scatter});

}  // namespace
}  // namespace jax_roipool::native
