// Reading a map where argmax says. Bits are copied, so only the size of an
// element matters.

#include <algorithm>
#include <cstdint>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/rois.h"
#include "cuda/tuning.h"
#include "problem.h"

namespace jax_roipool::cuda {
namespace {

// item = (RoI, part of its results).
struct GatherArguments {
  GatherCall call;
  int64_t items, parts;
};

constexpr int64_t kResultsPerItem = 4 * kThreads;

template <typename Bits>
__global__ void __launch_bounds__(kThreads)
    GatherCells(const GatherArguments a) {
  const Problem& problem = a.call.problem;
  const bool last = problem.layout == Layout::kNHWC;
  const int64_t size = problem.pooled_size();
  for (int64_t item = blockIdx.x; item < a.items; item += gridDim.x) {
    const Division place = Divide(item, a.parts);
    const int64_t roi = place.quotient;
    const int64_t map = MapOf(problem, a.call.image, roi);
    const Bits* source = static_cast<const Bits*>(a.call.map) +
                         (map < 0 ? 0 : map) * problem.map_size();
    const int32_t* argmax = a.call.argmax + roi * size;
    Bits* pooled = static_cast<Bits*>(a.call.pooled) + roi * size;
    JAX_ROIPOOL_UNROLL(4)
    for (int64_t step = 0; step < kResultsPerItem; step += kThreads) {
      const int64_t i = place.remainder * kResultsPerItem + step + threadIdx.x;
      if (i >= size) break;
      const int64_t cell = argmax[i];
      Bits bits{0};
      if (map >= 0 && cell >= 0 && cell < problem.cells()) {
        bits =
            last ? source[cell * problem.channels +
                          Divide(i, problem.channels).remainder]
                 : source[Divide(i, problem.bins()).quotient * problem.cells() +
                          cell];
      }
      pooled[i] = bits;
    }
  }
}

template <typename Bits>
Status GatherAs(const GatherCall& call, Stream stream) {
  GatherArguments a{call, 0,
                    CeilDiv(call.problem.pooled_size(), kResultsPerItem)};
  a.items = call.problem.groups * call.problem.rois * a.parts;
  return Launch(GatherCells<Bits>, std::min(a.items, kMaxBlocks), kThreads, 0,
                stream, a);
}

}  // namespace

Status Gather(const GatherCall& call, const Device&, Stream stream) {
  switch (ElementBytes(call.problem.element)) {
    case 2:
      return GatherAs<uint16_t>(call, stream);
    case 4:
      return GatherAs<uint32_t>(call, stream);
    default:
      return GatherAs<uint64_t>(call, stream);
  }
}

}  // namespace jax_roipool::cuda
