// Vectors of the instruction set that this file is compiled for: included by
// the kernels of ops alone, which CMakeLists.txt compiles once per instruction
// set, each time with its flags and its name as JAX_ROIPOOL_ISA.
//
// Everything has internal linkage, here and in all that those include, and no
// standard container is used: a weak symbol could be the copy that the linker
// keeps for the whole library, in instructions that the CPU at hand may not
// have. tests/package/test_build.py holds us to that.

#ifndef JAX_ROIPOOL_CSRC_CPU_VECTORS_H_
#define JAX_ROIPOOL_CSRC_CPU_VECTORS_H_

#include <cstdint>
#include <cstring>

#include "cpu/squares.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

#if defined(__AVX512BW__)
constexpr int kVectorBytes = 64;
// 32 registers: eight pairs of (value, index) and room for the loads.
constexpr int kMaxVectors = 8;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kMaxVectors = 4;
#else
constexpr int kVectorBytes = 16;
constexpr int kMaxVectors = 4;
#endif
static_assert(kVectorBytes <= kMaxVectorBytes);

template <typename T, int kLanes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(sizeof(T) * kLanes)));
};
template <typename T, int kLanes>
using Vector = typename VectorOf<T, kLanes>::Type;

template <typename V, typename T>
inline V Load(const T* source) {
  V vector;
  std::memcpy(&vector, source, sizeof(vector));
  return vector;
}

template <typename V, typename T>
inline void Store(V vector, T* target) {
  std::memcpy(target, &vector, sizeof(vector));
}

// The first `count` lanes; of a load, the others are zero.
template <typename V, typename T>
inline V LoadFirst(const T* source, int64_t count) {
  V vector{};
  std::memcpy(&vector, source, count * sizeof(T));
  return vector;
}

template <typename V, typename T>
inline void StoreFirst(V vector, int64_t count, T* target) {
  std::memcpy(target, &vector, count * sizeof(T));
}

// The sign bits of a full vector of float32, a bit for each lane.
constexpr uint32_t kAllLanes = (uint32_t{1} << kVectorBytes / 4) - 1;
inline uint32_t SignBits(Vector<float, kVectorBytes / 4> vector) {
#if defined(__AVX512BW__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(vector));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(vector));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(vector));
#else
  const auto bits =
      reinterpret_cast<Vector<uint32_t, kVectorBytes / 4> >(vector);
  uint32_t signs = 0;
  for (int lane = 0; lane < kVectorBytes / 4; ++lane) {
    signs |= bits[lane] >> 31 << lane;
  }
  return signs;
#endif
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_CPU_VECTORS_H_
