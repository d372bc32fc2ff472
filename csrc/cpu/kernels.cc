// CPU kernels, written once with the compiler's vector types and compiled once
// per instruction set: CMakeLists.txt defines JAX_ROIPOOL_TARGET and the flags.
//
// Everything but the table has internal linkage and no standard container is
// used, here and in kernels/: a weak symbol from here could be the copy that
// the linker keeps for the whole library, in instructions that the CPU at hand
// may not have. tests/test_build.py holds us to that.

#include "cpu/kernels.h"

#include "cpu/kernels/linear.h"
#include "cpu/kernels/orders.h"
#include "cpu/kernels/pool_bins.h"
#include "cpu/kernels/pool_blocks.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
namespace {

template <Element kElement, bool kArgmax>
void PoolAs(const Call& call, const Unit& unit, const Scratch& scratch) {
  using Order = typename OrderOf<kElement, kArgmax>::Type;
  switch (unit.source) {
    case Source::kMap:
      return PoolByBins<Order, kArgmax>(call, unit);
    case Source::kSharedTable:
      return PoolFromSharedTable<Order, kArgmax>(call, unit, scratch);
    case Source::kOwnTables:
      return PoolFromOwnTables<Order, kArgmax>(call, unit, scratch);
  }
}

template <Element kElement>
void Pool(const Call& call, const Unit& unit, const Scratch& scratch) {
  if (call.argmax_out == nullptr) {
    PoolAs<kElement, false>(call, unit, scratch);
  } else {
    PoolAs<kElement, true>(call, unit, scratch);
  }
}

}  // namespace

// In the order of Element.
extern const KernelTable kTable = {
#define JAX_ROIPOOL_STRING_(x) #x
#define JAX_ROIPOOL_STRING(x) JAX_ROIPOOL_STRING_(x)
    JAX_ROIPOOL_STRING(JAX_ROIPOOL_TARGET),
    kVectorBytes,
    {Pool<Element::kFloat16>, Pool<Element::kBFloat16>, Pool<Element::kFloat32>,
     Pool<Element::kFloat64>},
    {Gather<uint16_t>, Gather<uint16_t>, Gather<uint32_t>, Gather<uint64_t>},
    {Scatter<HalfSum<Float16>>, Scatter<HalfSum<BFloat16>>,
     Scatter<DirectSum<float>>, Scatter<DirectSum<double>>},
};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET
