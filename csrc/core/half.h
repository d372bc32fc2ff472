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

struct BFloat16 {
  static constexpr uint16_t kInfinity = 0x7f80;

  JAX_ROIPOOL_HOST_DEVICE static inline float Widen(uint16_t bits) {
    return BitsToFloat(static_cast<uint32_t>(bits) << 16);
  }

  JAX_ROIPOOL_HOST_DEVICE static inline uint16_t Round(float value) {
    const uint32_t bits = FloatToBits(value);
    const uint32_t nan = (bits >> 16) | 0x0040u;  // stays one
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(
        Select((bits & 0x7fffffffu) > 0x7f800000u, nan, rounded));
  }
};

struct Float16 {
  static constexpr uint16_t kInfinity = 0x7c00;

  JAX_ROIPOOL_HOST_DEVICE static inline float Widen(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    // Rebias the exponent by a product, which normalises subnormals too.
    const uint32_t rebiased = FloatToBits(BitsToFloat(magnitude) * 0x1p112f);
    const bool finite = magnitude < 0x0f800000u;
    return BitsToFloat(sign |
                       Select(finite, rebiased, 0x70000000u | magnitude));
  }

  JAX_ROIPOOL_HOST_DEVICE static inline uint16_t Round(float value) {
    const uint32_t bits = FloatToBits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal =
        (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits.
    const uint32_t subnormal =
        FloatToBits(BitsToFloat(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t rounded = Select(magnitude < 0x38800000u, subnormal, normal);
    rounded = Select(magnitude < 0x477ff000u, rounded, 0x7c00u);   // 65520: inf
    rounded = Select(magnitude <= 0x7f800000u, rounded, 0x7e00u);  // NaN
    return static_cast<uint16_t>(sign | rounded);
  }
};

}  // namespace
}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_HALF_H_
