// Elements as kernels hold them: how they lie in memory and in registers.

#ifndef JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_
#define JAX_ROIPOOL_CSRC_CUDA_ELEMENTS_H_

#include <cstdint>

#include "cuda/device.h"
#include "half.h"
#include "problem.h"

namespace jax_roipool::cuda {
namespace {  // as in half.h

// Halves are compared and added up as float32.
template <Element kElement>
struct ElementOf;

template <typename T>
struct FloatElement {
  using Storage = T;
  using Number = T;
  __device__ static T Widen(T value) { return value; }
  __device__ static T Round(T value) { return value; }
};
template <>
struct ElementOf<Element::kFloat32> : FloatElement<float> {};
template <>
struct ElementOf<Element::kFloat64> : FloatElement<double> {};

template <class Half>
struct HalfElement {
  using Storage = uint16_t;
  using Number = float;
  __device__ static float Widen(uint16_t bits) { return Half::Widen(bits); }
  __device__ static uint16_t Round(float value) { return Half::Round(value); }
};
template <>
struct ElementOf<Element::kFloat16> : HalfElement<Float16> {};
template <>
struct ElementOf<Element::kBFloat16> : HalfElement<BFloat16> {};

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
