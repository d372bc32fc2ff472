// float16 and bfloat16 as bit patterns: widening to float32 (exact) and
// rounding back (to nearest, ties to even), the same on every CPU.
//
// Everything has internal linkage: this header is compiled once per instruction
// set, and of an inline function that files share the linker could keep the
// copy that an older CPU cannot run.

#ifndef JAX_ROIPOOL_CSRC_CORE_HALF_H_
#define JAX_ROIPOOL_CSRC_CORE_HALF_H_

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace jax_roipool {
namespace {

JAX_ROIPOOL_HOST_DEVICE inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

JAX_ROIPOOL_HOST_DEVICE inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// `condition ? a : b` by masks, of which compilers make no branch.
JAX_ROIPOOL_HOST_DEVICE inline uint32_t Select(bool condition, uint32_t a,
                                               uint32_t b) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return (a & mask) | (b & ~mask);
}

// The same in vectors, of which conditions are masks.
template <typename Mask, typename Bits>
inline Bits Select(Mask condition, Bits a, Bits b) {
  const Bits mask = (Bits)condition;
  return (a & mask) | (b & ~mask);
}

template <typename To, typename From>
JAX_ROIPOOL_HOST_DEVICE inline To BitsAs(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// A half lies in the lower bits of a uint32_t. Bits and Float are uint32_t and
// float, or vectors of them.

struct BFloat16 {
  static constexpr uint16_t kInfinity = 0x7f80;

  template <typename Float, typename Bits>
  JAX_ROIPOOL_HOST_DEVICE static inline Float WidenBits(Bits bits) {
    return BitsAs<Float>(bits << 16);
  }

  template <typename Bits, typename Float>
  JAX_ROIPOOL_HOST_DEVICE static inline Bits RoundBits(Float value) {
    const Bits bits = BitsAs<Bits>(value);
    const Bits nan = (bits >> 16) | 0x0040u;  // stays one
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return Select((bits & 0x7fffffffu) > 0x7f800000u, nan, rounded);
  }

  JAX_ROIPOOL_HOST_DEVICE static inline float Widen(uint16_t bits) {
    return WidenBits<float>(uint32_t{bits});
  }
  JAX_ROIPOOL_HOST_DEVICE static inline uint16_t Round(float value) {
    return static_cast<uint16_t>(RoundBits<uint32_t>(value));
  }
};

struct Float16 {
  static constexpr uint16_t kInfinity = 0x7c00;

  template <typename Float, typename Bits>
  JAX_ROIPOOL_HOST_DEVICE static inline Float WidenBits(Bits bits) {
    const Bits sign = (bits & 0x8000u) << 16;
    const Bits magnitude = (bits & 0x7fffu) << 13;
    // Rebias the exponent by a product, which normalises subnormals too.
    const Bits rebiased = BitsAs<Bits>(BitsAs<Float>(magnitude) * 0x1p112f);
    const Bits special = magnitude | 0x70000000u;
    return BitsAs<Float>(sign |
                         Select(magnitude < 0x0f800000u, rebiased, special));
  }

  template <typename Bits, typename Float>
  JAX_ROIPOOL_HOST_DEVICE static inline Bits RoundBits(Float value) {
    const Bits bits = BitsAs<Bits>(value);
    const Bits sign = (bits >> 16) & 0x8000u;
    const Bits magnitude = bits & 0x7fffffffu;
    const Bits normal =
        (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits.
    const Bits subnormal =
        BitsAs<Bits>(BitsAs<Float>(magnitude) + 0.5f) - 0x3f000000u;
    const Bits infinity = (magnitude & 0u) | 0x7c00u;
    const Bits nan = (magnitude & 0u) | 0x7e00u;
    Bits rounded = Select(magnitude < 0x38800000u, subnormal, normal);
    rounded = Select(magnitude < 0x477ff000u, rounded, infinity);  // 65520
    rounded = Select(magnitude <= 0x7f800000u, rounded, nan);
    return sign | rounded;
  }

  JAX_ROIPOOL_HOST_DEVICE static inline float Widen(uint16_t bits) {
    return WidenBits<float>(uint32_t{bits});
  }
  JAX_ROIPOOL_HOST_DEVICE static inline uint16_t Round(float value) {
    return static_cast<uint16_t>(RoundBits<uint32_t>(value));
  }
};

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_HALF_H_
