// Elements as numbers: how they lie in memory, and as what they are compared
// and added up.
//
// Everything has internal linkage, as in half.h.

#ifndef JAX_ROIPOOL_CSRC_CORE_ELEMENTS_H_
#define JAX_ROIPOOL_CSRC_CORE_ELEMENTS_H_

#include <cstdint>

#include "core/half.h"
#include "core/host_device.h"
#include "core/sizes.h"

namespace jax_roipool {
namespace {

// Numbers of 16 bits are widened to float32 and rounded once.
template <Element kElement>
struct ElementOf;

template <typename T>
struct FloatElement {
  using Storage = T;
  using Number = T;
  JAX_ROIPOOL_HOST_DEVICE static inline T Widen(T value) { return value; }
  JAX_ROIPOOL_HOST_DEVICE static inline T Round(T value) { return value; }
};
template <>
struct ElementOf<Element::kFloat32> : FloatElement<float> {};
template <>
struct ElementOf<Element::kFloat64> : FloatElement<double> {};

template <class Half>
struct HalfElement {
  using Storage = uint16_t;
  using Number = float;
  JAX_ROIPOOL_HOST_DEVICE static inline float Widen(uint16_t bits) {
    return Half::Widen(bits);
  }
  JAX_ROIPOOL_HOST_DEVICE static inline uint16_t Round(float value) {
    return Half::Round(value);
  }
};
template <>
struct ElementOf<Element::kFloat16> : HalfElement<Float16> {};
template <>
struct ElementOf<Element::kBFloat16> : HalfElement<BFloat16> {};

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_ELEMENTS_H_
