// Turning squares of elements in registers.

#ifndef JAX_ROIPOOL_CSRC_CPU_TRANSPOSES_H_
#define JAX_ROIPOOL_CSRC_CPU_TRANSPOSES_H_

#include <cstdint>
#include <cstring>
#include <utility>

#include "core/sizes.h"
#include "cpu/squares.h"
#include "cpu/vectors.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

template <int kBytes>
struct IntegerOf;
template <>
struct IntegerOf<2> {
  using Type = int16_t;
};
template <>
struct IntegerOf<4> {
  using Type = int32_t;
};
template <>
struct IntegerOf<8> {
  using Type = int64_t;
};

// a0 b0 a1 b1 ..., from the lower halves of a and b or from the upper ones.
template <typename T, int kLanes, bool kUpper, int... kLane>
inline Vector<T, kLanes> Interleave(Vector<T, kLanes> a, Vector<T, kLanes> b,
                                    std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, (kLane / 2 + kUpper * kLanes / 2 + kLane % 2 * kLanes)...);
#else
  using Integer = typename IntegerOf<sizeof(T)>::Type;
  return __builtin_shuffle(
      a, b,
      Vector<Integer, kLanes>{
          (kLane / 2 + kUpper * kLanes / 2 + kLane % 2 * kLanes)...});
#endif
}

// Turns the square of kSide rows of kSide lanes: rounds of a perfect shuffle.
template <typename T, int kSide, int kRounds = kSide>
inline void TransposeSquare(Vector<T, kSide>* rows) {
  if constexpr (kRounds > 1) {
    constexpr std::make_integer_sequence<int, kSide> kLanes{};
    Vector<T, kSide> turned[kSide];
    for (int i = 0; i < kSide / 2; ++i) {
      const auto a = rows[i], b = rows[i + kSide / 2];
      turned[2 * i] = Interleave<T, kSide, false>(a, b, kLanes);
      turned[2 * i + 1] = Interleave<T, kSide, true>(a, b, kLanes);
    }
    for (int i = 0; i < kSide; ++i) rows[i] = turned[i];
    TransposeSquare<T, kSide, kRounds / 2>(rows);
  }
}

// put(column + i, lanes, height) for each i < width: the rows of a square that
// is `height` x `width`, kSide both where kFull, turned.
template <int kSide, bool kFull, typename T, typename Put>
inline void TransposeCorner(const T* source, int64_t stride, int64_t height,
                            int64_t width, const Put& put) {
  using V = Vector<T, kSide>;
  V square[kSide];
  for (int64_t i = 0; i < kSide; ++i) {
    if constexpr (kFull) {
      square[i] = Load<V>(source + i * stride);
    } else {
      const T* from = source + (i < height ? i : 0) * stride;
      square[i] = width == kSide ? Load<V>(from) : LoadFirst<V>(from, width);
    }
  }
  TransposeSquare<T, kSide>(square);
  for (int64_t i = 0; i < (kFull ? kSide : width); ++i) {
    put(i, square[i], kFull ? kSide : height);
  }
}

// put(column, row, lanes, count) for squares that cover [rows][columns] of
// source: `count` lanes of `lanes` are rows from `row` on. The last squares are
// flush with the end and so may put some lanes once more.
template <int kSide, typename T, typename Put>
inline void Transpose(const T* source, int64_t rows, int64_t columns,
                      int64_t stride, const Put& put) {
  const int64_t height = rows < kSide ? rows : kSide;
  const int64_t width = columns < kSide ? columns : kSide;
  const bool full = height == kSide && width == kSide;
  for (int64_t i = 0; i < rows; i += kSide) {
    const int64_t row = i + height <= rows ? i : rows - height;
    for (int64_t j = 0; j < columns; j += kSide) {
      const int64_t column = j + width <= columns ? j : columns - width;
      const T* corner = source + row * stride + column;
      const auto put_here = [&](int64_t k, Vector<T, kSide> lanes,
                                int64_t count) {
        put(column + k, row, lanes, count);
      };
      if (full) {
        TransposeCorner<kSide, true>(corner, stride, kSide, kSide, put_here);
      } else {
        TransposeCorner<kSide, false>(corner, stride, height, width, put_here);
      }
    }
  }
}

// target[column][row] = source[row][column].
template <int kSide, typename T>
inline void Transpose(const T* source, int64_t rows, int64_t columns,
                      int64_t source_stride, T* target) {
  Transpose<kSide>(
      source, rows, columns, source_stride,
      [&](int64_t column, int64_t row, Vector<T, kSide> lanes, int64_t count) {
        T* to = target + column * rows + row;
        // Too many lanes may be stored where the next columns,
        // which come later, overwrite them.
        const bool overwritten = (columns - column) * rows >= kSide;
        if (count == kSide || overwritten) {
          Store(lanes, to);
        } else {
          StoreFirst(lanes, count, to);
        }
      });
}

// --- From planes of channels to vectors of channels
//
// Rows are read with vectors of neighbouring columns, a square of columns and
// channels at a time, and each square is turned in registers. `Lanes` says how
// elements become lanes: Storage, Key and LoadKeys<kLanes>(source).

// Side of the squares, which is the number of channels done together.
template <class Lanes>
constexpr int kSquareSide =
    SquareSide(kVectorBytes, sizeof(typename Lanes::Storage));

// Channels of one map, each a plane. `end` is that of the last map: to the
// right of a row lies memory that may be read in vain, from `end` on does not.
template <typename T, int kSide>
struct Planes {
  const T* first[kSide];  // a last channel stands in for those beyond it
  const T* end;
  int64_t width;
};

// Keys from `source` on, and nothing from `end` on: lanes there are zero.
template <class Lanes, int kLanes>
inline Vector<typename Lanes::Key, kLanes> LoadKeysBefore(
    const typename Lanes::Storage* source, const typename Lanes::Storage* end) {
  if (end - source >= kLanes) return Lanes::template LoadKeys<kLanes>(source);
  typename Lanes::Storage copy[kLanes] = {};
  if (source < end) std::memcpy(copy, source, (end - source) * sizeof(*copy));
  return Lanes::template LoadKeys<kLanes>(copy);
}

// kSide channels of `columns` of a row, kStride elements from column to column.
// Up to kSide - 1 columns more are written.
template <class Lanes, int kStride>
inline void PackRow(
    const Planes<typename Lanes::Storage, kSquareSide<Lanes>>& planes,
    int64_t row, Range columns, typename Lanes::Key* target) {
  constexpr int kSide = kSquareSide<Lanes>;
  using Key = typename Lanes::Key;
  for (int64_t column = columns.begin; column < columns.end; column += kSide) {
    Vector<Key, kSide> square[kSide];
    for (int i = 0; i < kSide; ++i) {
      square[i] = LoadKeysBefore<Lanes, kSide>(
          planes.first[i] + row * planes.width + column, planes.end);
    }
    TransposeSquare<Key, kSide>(square);
    for (int i = 0; i < kSide; ++i) Store(square[i], target + i * kStride);
    target += kSide * kStride;
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_CPU_TRANSPOSES_H_
