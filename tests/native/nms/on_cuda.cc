#include <algorithm>
#include <cstdio>

#include "guarded.h"
#include "nms/nms_input.h"
#include "op.h"
#include "ops/nms/cuda.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

bool Run(const NmsInput& input, const std::vector<int32_t>& expected) {
  static auto* const arrays = new NmsArrays;
  static auto* const workspace = new Guarded[4];
  const NmsCall call = arrays->Place(input);
  // Some rows at a time, or all.
  const int64_t words = cuda::NmsWords(call);
  const int64_t rows =
      32 * std::max<int64_t>(1, std::min<int64_t>(words, input.seed % 5));
  const int64_t sizes[] = {call.boxes, words, words * rows, 1};
  for (int i = 0; i < 4; ++i) {
    workspace[i].Place(static_cast<size_t>(4 * call.groups * sizes[i]),
                       input.flush);
  }
  cuda_on_host::Seed(input.seed);
  bool right =
      cuda::Nms(call,
                {workspace[0].as<int32_t>(), workspace[1].as<int32_t>(),
                 workspace[2].as<int32_t>(), workspace[3].as<int32_t>(), rows},
                {}) == cuda::kSuccess &&
      arrays->Right(input, expected);
  for (int i = 0; i < 4; ++i) right = right && workspace[i].AroundIsWhole();
  if (!right) std::fprintf(stderr, "CUDA, ");
  return right;
}

const Registered<NmsRunner> runner({Run});

}  // namespace
}  // namespace jax_roipool::native
