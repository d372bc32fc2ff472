// From planes of channels to vectors of channels.
//
// Rows are read with vectors of neighbouring columns, a square of columns and
// channels at a time, and each square is turned in registers.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_PLANES_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_PLANES_H_

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/kernels/orders.h"
#include "cpu/kernels/vectors.h"
#include "geometry.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
namespace {

// Side of the squares, which is the number of channels done together.
template <class Order>
constexpr int kSquareSide =
    SquareSide(kVectorBytes, sizeof(typename Order::Storage));

// Channels of one map, each a plane. `end` is that of the last map: to the
// right of a row lies memory that may be read in vain, from `end` on does not.
template <typename T, int kSide>
struct Planes {
  const T* first[kSide];  // a last channel stands in for those beyond it
  const T* end;
  int64_t width;
};

// Keys from `source` on, and nothing from `end` on: lanes there are zero.
template <class Order, int kLanes>
inline Vector<typename Order::Key, kLanes> LoadKeysBefore(
    const typename Order::Storage* source, const typename Order::Storage* end) {
  if (end - source >= kLanes) return Order::template LoadKeys<kLanes>(source);
  typename Order::Storage copy[kLanes] = {};
  if (source < end) std::memcpy(copy, source, (end - source) * sizeof(*copy));
  return Order::template LoadKeys<kLanes>(copy);
}

// kSide channels of `columns` of a row, kStride elements from column to column.
// Up to kSide - 1 columns more are written.
template <class Order, int kStride>
inline void PackRow(
    const Planes<typename Order::Storage, kSquareSide<Order>>& planes,
    int64_t row, Range columns, typename Order::Key* target) {
  constexpr int kSide = kSquareSide<Order>;
  using Key = typename Order::Key;
  for (int64_t column = columns.begin; column < columns.end; column += kSide) {
    Vector<Key, kSide> square[kSide];
    for (int i = 0; i < kSide; ++i) {
      square[i] = LoadKeysBefore<Order, kSide>(
          planes.first[i] + row * planes.width + column, planes.end);
    }
    TransposeSquare<Key, kSide>(square);
    for (int i = 0; i < kSide; ++i) Store(square[i], target + i * kStride);
    target += kSide * kStride;
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_PLANES_H_
