// The CPU's kernels of max pooling, written once with the compiler's vector
// types and compiled once per instruction set; see cpu/vectors.h.

#include "ops/max/cpu_kernels.h"

#include "core/sizes.h"
#include "cpu/vectors.h"
#include "ops/max/cpu_bins.h"
#include "ops/max/cpu_pool_from_tables.h"
#include "ops/max/cpu_search.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

template <Element kElement, bool kArgmax>
void PoolAs(const PlannedMaxPool& call, const MaxPoolUnit& unit,
            const MaxPoolScratch& scratch) {
  using Compare = typename CompareOf<kElement, kArgmax>::Type;
  switch (unit.source) {
    case CellSource::kMap:
      return PoolByBins<Compare, kArgmax>(call, unit);
    case CellSource::kSharedTable:
      return PoolFromSharedTable<Compare, kArgmax>(call, unit, scratch);
    case CellSource::kOwnTables:
      return PoolFromOwnTables<Compare, kArgmax>(call, unit, scratch);
  }
}

template <Element kElement>
void Pool(const PlannedMaxPool& call, const MaxPoolUnit& unit,
          const MaxPoolScratch& scratch) {
  if (call.argmax == nullptr) {
    PoolAs<kElement, false>(call, unit, scratch);
  } else {
    PoolAs<kElement, true>(call, unit, scratch);
  }
}

}  // namespace

// In the order of Element.
extern const MaxPoolKernels kMaxPoolKernels = {
    kVectorBytes,
    {Pool<Element::kFloat16>, Pool<Element::kBFloat16>, Pool<Element::kFloat32>,
     Pool<Element::kFloat64>},
};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA
