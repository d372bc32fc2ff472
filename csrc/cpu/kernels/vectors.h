// Vectors of the instruction set that this file is compiled for.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_VECTORS_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_VECTORS_H_

#include <cstdint>
#include <cstring>
#include <utility>

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
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

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_VECTORS_H_
