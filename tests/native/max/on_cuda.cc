#include "max/calls.h"
#include "op.h"
#include "ops/max/cuda.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

template <bool kArgmax>
bool Run(const Call& call, const Arrays& arrays, const Way& device) {
  return cuda::MaxPool(MaxPoolCallOf(call, arrays, kArgmax), device, {}) ==
         cuda::kSuccess;
}

const Registered<Runner> pool({"roi_pool", Run<false>});
const Registered<Runner> pool_argmax({"roi_pool_argmax", Run<true>});

}  // namespace
}  // namespace jax_roipool::native
