// Elements as kernels load and store them; as numbers see core/elements.h.

#ifndef JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_
#define JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_

#include <cstdint>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"

namespace jax_roipool::cuda {
namespace {  // as in core/half.h

// Neighbours in memory that are loaded or stored at once.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
};

template <typename T, int kCount>
__device__ inline Pack<T, kCount> LoadPack(const T* source) {
  return *reinterpret_cast<const Pack<T, kCount>*>(source);
}
template <typename T, int kCount>
__device__ inline void StorePack(const Pack<T, kCount>& pack, T* target) {
  *reinterpret_cast<Pack<T, kCount>*>(target) = pack;
}

// run(ElementTag<element>{}), for code that must know the element's type.
template <Element kElement>
struct ElementTag {
  static constexpr Element kValue = kElement;
};
template <typename Run>
Status ForElement(Element element, const Run& run) {
  switch (element) {
    case Element::kFloat16:
      return run(ElementTag<Element::kFloat16>{});
    case Element::kBFloat16:
      return run(ElementTag<Element::kBFloat16>{});
    case Element::kFloat32:
      return run(ElementTag<Element::kFloat32>{});
    default:
      return run(ElementTag<Element::kFloat64>{});
  }
}

}  // namespace
}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_
