// The CPU's kernels that apply bands, compiled once per instruction set; see
// cpu/vectors.h.

#include "ops/bands/cpu_kernels.h"

#include "core/sizes.h"
#include "cpu/vectors.h"
#include "ops/bands/cpu_apply.h"
#include "ops/bands/cpu_box_gradient.h"
#include "ops/bands/cpu_transpose.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {

// In the order of Element.
extern const BandsKernels kBandsKernels = {
    kVectorBytes,
    kMaxVectors * kVectorBytes,
    kSlopes * kSlopeVectors * kVectorBytes,
    {Apply<Element::kFloat16>, Apply<Element::kBFloat16>,
     Apply<Element::kFloat32>, Apply<Element::kFloat64>},
    {Spread<Element::kFloat16>, Spread<Element::kBFloat16>,
     Spread<Element::kFloat32>, Spread<Element::kFloat64>},
    {BoxGradient<Element::kFloat16>, BoxGradient<Element::kBFloat16>,
     BoxGradient<Element::kFloat32>, BoxGradient<Element::kFloat64>},
};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA
