// The CPU's kernels of argmax_gather and argmax_scatter, compiled once per
// instruction set; see cpu/vectors.h.

#include "ops/argmax/cpu_kernels.h"

#include <cstdint>

#include "core/sizes.h"
#include "ops/argmax/cpu_gather.h"
#include "ops/argmax/cpu_scatter.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {

// In the order of Element.
extern const ArgmaxGatherKernels kArgmaxGatherKernels = {
    {Gather<uint16_t>, Gather<uint16_t>, Gather<uint32_t>, Gather<uint64_t>},
};
extern const ArgmaxScatterKernels kArgmaxScatterKernels = {
    {Scatter<Element::kFloat16>, Scatter<Element::kBFloat16>,
     Scatter<Element::kFloat32>, Scatter<Element::kFloat64>},
};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA
