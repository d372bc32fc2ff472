// Reading a map where argmax says. Bits are copied, so only the size of an
// element matters.

#include <cstdint>

#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/work.h"
#include "ops/argmax/calls.h"
#include "ops/argmax/cuda.h"
#include "ops/argmax/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

// item = (RoI, part of its results).
struct GatherArguments {
  ArgmaxGatherCall call;
  int64_t items, parts;
};

constexpr int64_t kResultsPerItem = 4 * kThreads;

template <typename Bits>
__global__ void __launch_bounds__(kThreads)
    GatherCells(const GatherArguments a) {
  const Maps& maps = a.call.maps;
  const bool last = maps.layout == Layout::kNHWC;
  const int64_t size = a.call.bins.size();
  TakeTurns(a.items, [&](int64_t item) {
    const Division place = Divide(item, a.parts);
    const int64_t roi = place.quotient;
    const int64_t map = MapOf(a.call, roi);
    const MapPlace at = map < 0 ? MapPlace{0, 0} : PlaceOf(maps, map);
    const int64_t cells = maps.levels[at.level].cells();
    const Bits* source = MapData<const Bits>(maps, a.call.tangents, at);
    const int32_t* argmax = a.call.argmax + roi * size;
    Bits* pooled = static_cast<Bits*>(a.call.pooled) + roi * size;
    JAX_ROIPOOL_UNROLL(4)
    for (int64_t step = 0; step < kResultsPerItem; step += kThreads) {
      const int64_t i = place.remainder * kResultsPerItem + step + threadIdx.x;
      if (i >= size) break;
      const int32_t cell = argmax[i];
      Bits bits{0};
      if (map >= 0 && NamesCell(cell, cells)) {
        bits = last ? source[cell * maps.channels +
                             Divide(i, maps.channels).remainder]
                    : source[Divide(i, a.call.bins.count()).quotient * cells +
                             cell];
      }
      pooled[i] = bits;
    }
  });
}

template <typename Bits>
Status GatherAs(const ArgmaxGatherCall& call, Stream stream) {
  GatherArguments a{call, 0, CeilDiv(call.bins.size(), kResultsPerItem)};
  a.items = call.rois.count() * a.parts;
  return Launch(GatherCells<Bits>, BlocksFor(a.items), kThreads, 0, stream, a);
}

}  // namespace

Status ArgmaxGather(const ArgmaxGatherCall& call, const Device&,
                    Stream stream) {
  switch (ElementBytes(call.maps.element)) {
    case 2:
      return GatherAs<uint16_t>(call, stream);
    case 4:
      return GatherAs<uint32_t>(call, stream);
    default:
      return GatherAs<uint64_t>(call, stream);
  }
}

}  // namespace jax_roipool::cuda
