// Which of two cells wins, the one place that knows: the first greatest, as
// jnp.argmax has it. A NaN beats numbers, of equals the first stays, +0 equals
// -0.
//
// V is a number or a vector of them; the answer is a bool or a vector of masks.
// Everything has internal linkage, as in half.h.

#ifndef JAX_ROIPOOL_CSRC_CORE_COMPARE_H_
#define JAX_ROIPOOL_CSRC_CORE_COMPARE_H_

#include <cstdint>

#include "core/host_device.h"

namespace jax_roipool {
namespace {

JAX_ROIPOOL_HOST_DEVICE inline bool Not(bool condition) { return !condition; }
template <typename Mask>
JAX_ROIPOOL_HOST_DEVICE inline Mask Not(Mask mask) {
  return ~mask;
}

// Whether `number`, of a later cell, takes the place of the best so far; kNaN
// says whether either may be a NaN.
template <bool kNaN, typename V>
JAX_ROIPOOL_HOST_DEVICE inline auto Beats(V number, V best) {
  if constexpr (kNaN) {
    return Not(number <= best) & (best == best);
  } else {
    return number > best;
  }
}

// The same where `number`'s cell may come before that of the best, or be it:
// their indices tell.
template <bool kNaN, typename V, typename Index>
JAX_ROIPOOL_HOST_DEVICE inline auto BeatsInAnyOrder(V number, Index at, V best,
                                                    Index index) {
  return Beats<kNaN>(number, best) |
         (Not(Beats<kNaN>(best, number)) & (at < index));
}

// 16-bit floats as integers that compare as the floats do: sign and magnitude
// become two's complement (-0 becomes 0), every NaN the greatest number there
// is. `bits` are sign-extended; kInfinity has the bits of infinity.
template <uint16_t kInfinity, typename V>
inline V KeysOfHalves(V bits) {
  const V magnitude = bits & 0x7fff;
  const V sign = bits < 0;  // all ones where negative
  const V nan = magnitude > kInfinity;
  const V key = (magnitude ^ sign) - sign;
  return (key & ~nan) | (nan & 0x7fff);
}
template <typename V>
inline V HalvesOfKeys(V keys) {
  const V sign = keys < 0;
  const V magnitude = (keys ^ sign) - sign;
  // All bits above the sign are set, too: of the key's lane 16 are kept.
  return magnitude | (sign & ~0x7fff);
}

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_COMPARE_H_
