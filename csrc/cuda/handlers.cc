// Placeholder that the build is proven with.

#include <cuda_runtime_api.h>

#include "cuda/kernels.h"
#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cuda {

int64_t Prove(cudaStream_t stream, const void* in, void* out) {
  Problem problem{};
  problem.height = problem.width = 8;
  if (LaunchMax(stream, in, out, problem.cells()) != cudaSuccess) return 1;
  if (LaunchSum(stream, in, out, problem.cells()) != cudaSuccess) return 2;
  return MakeProblem({}, {}, {}, &problem).empty() ? 0 : 3;
}

}  // namespace jax_roipool::cuda
