// Elements as kernels load and store them; as numbers see core/elements.h.

#ifndef JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_
#define JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_

#include <cstdint>
#include <initializer_list>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/tuning.h"

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

// Whether vectors of `count` channels lie, channels last, where they can be
// moved at once: in `levels`, which has each level's numbers, and in `others`.
// XLA's own buffers do; slices of them need not.
template <class Void>
bool ChannelsAligned(const Maps& maps, int64_t count, Void* const* levels,
                     std::initializer_list<const void*> others) {
  const auto at = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
  };
  bool all = maps.channels % count == 0 &&
             count * ElementBytes(maps.element) <= kVectorBytes;
  for (const void* other : others) all &= at(other);
  for (int i = 0; i < maps.num_levels; ++i) all &= at(levels[i]);
  return all;
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
