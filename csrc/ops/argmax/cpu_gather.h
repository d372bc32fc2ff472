// Reading a map where argmax says.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_GATHER_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_GATHER_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "ops/argmax/calls.h"
#include "ops/argmax/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// pooled[bin, channel] = map[argmax[bin, channel], channel], else 0. Bits are
// copied, so only the size of an element matters.
template <typename Bits>
void Gather(const PlannedArgmaxGather& call, const ArgmaxGatherUnit& unit,
            const ArgmaxGatherScratch&) {
  const bool last = call.maps.layout == Layout::kNHWC;
  const int64_t channels = call.maps.channels, bins = call.bins.count();
  const int64_t cell_stride = last ? channels : 1;
  const int64_t outer = last ? bins : channels;
  const int64_t inner = last ? channels : bins;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    const int64_t offset = roi * call.bins.size();
    Bits* pooled = static_cast<Bits*>(call.pooled) + offset;
    const int32_t* argmax = call.argmax + offset;
    if (call.map_of[roi] < 0) {
      std::memset(pooled, 0, call.bins.size() * sizeof(Bits));
      continue;
    }
    const MapPlace at = PlaceOf(call.maps, call.map_of[roi]);
    const Bits* map = MapData<const Bits>(call.maps, call.tangents, at);
    const int64_t cells = call.maps.levels[at.level].cells();
    const int64_t channel_stride = last ? 1 : cells;
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t n = 0; n < inner; ++n, ++pooled, ++argmax) {
        const int64_t channel = last ? n : o;
        *pooled = NamesCell(*argmax, cells)
                      ? map[*argmax * cell_stride + channel * channel_stride]
                      : Bits{0};
      }
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_GATHER_H_
