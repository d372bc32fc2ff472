// CPU kernels, written once with the compiler's vector types and compiled once
// per instruction set: CMakeLists.txt defines JAX_ROIPOOL_TARGET and the flags.
//
// Everything but the table has internal linkage and no standard container is
// used: a weak symbol from here could be the copy that the linker keeps for
// the whole library, in instructions that the CPU at hand may not have.
// tests/test_build.py holds us to that.

#include "kernels.h"

#include <cstring>
#include <type_traits>

#include "half.h"

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

// An order is how one element type is compared: its storage, the key that
// stands for a value while bins are searched, the lanes of the index beside
// it, and Better(key, best): whether a later cell takes the place of the best
// so far. First of equals stays, a NaN beats numbers, +0 equals -0.

template <typename T, typename IndexT>
struct FloatOrder {
  using Storage = T;
  using Key = T;
  using Index = IndexT;

  template <int kLanes>
  static inline Vector<Key, kLanes> LoadKeys(const Storage* source) {
    return Load<Vector<Key, kLanes>>(source);
  }
  template <int kLanes>
  static inline void StoreKeys(Vector<Key, kLanes> keys, Storage* target) {
    Store(keys, target);
  }
  template <typename V>
  static inline auto Better(V key, V best) {
    return ~(key <= best) & (best == best);
  }
};

// 16-bit floats are compared as integers: sign and magnitude become two's
// complement (-0 becomes 0), every NaN the greatest number there is. A lane is
// as wide as the index beside it, or 16 bits where no index is wanted.
template <uint16_t kInfinity, typename KeyT, typename IndexT>
struct HalfOrder {
  using Storage = uint16_t;
  using Key = KeyT;
  using Index = IndexT;

  template <int kLanes>
  static inline Vector<Key, kLanes> LoadKeys(const Storage* source) {
    const auto bits = __builtin_convertvector(
        (Load<Vector<int16_t, kLanes>>(source)), Vector<Key, kLanes>);
    const Vector<Key, kLanes> magnitude = bits & 0x7fff;
    const Vector<Key, kLanes> sign = bits < 0;  // all ones where negative
    const Vector<Key, kLanes> nan = magnitude > kInfinity;
    const Vector<Key, kLanes> key = (magnitude ^ sign) - sign;
    return (key & ~nan) | (nan & 0x7fff);
  }
  template <int kLanes>
  static inline void StoreKeys(Vector<Key, kLanes> keys, Storage* target) {
    const Vector<Key, kLanes> sign = keys < 0;
    const Vector<Key, kLanes> magnitude = (keys ^ sign) - sign;
    const Vector<Key, kLanes> bits =
        magnitude | (sign & static_cast<Key>(~0x7fff));
    Store(__builtin_convertvector(bits, Vector<int16_t, kLanes>), target);
  }
  template <typename V>
  static inline auto Better(V key, V best) {
    return key > best;
  }
};

template <Element kElement, bool kArgmax>
struct OrderOf;
template <bool kArgmax>
struct OrderOf<Element::kFloat32, kArgmax> {
  using Type = FloatOrder<float, int32_t>;
};
template <bool kArgmax>
struct OrderOf<Element::kFloat64, kArgmax> {
  using Type = FloatOrder<double, int64_t>;
};
template <bool kArgmax>
struct OrderOf<Element::kFloat16, kArgmax> {
  using Type =
      HalfOrder<Float16::kInfinity,
                std::conditional_t<kArgmax, int32_t, int16_t>, int32_t>;
};
template <bool kArgmax>
struct OrderOf<Element::kBFloat16, kArgmax> {
  using Type =
      HalfOrder<BFloat16::kInfinity,
                std::conditional_t<kArgmax, int32_t, int16_t>, int32_t>;
};

// Where a bin lies in a map whose cells are `cell_stride` elements apart.
struct Window {
  Range rows, columns;
  int64_t width;        // cells per row of the map
  int64_t cell_stride;  // elements per cell
};

// The maximum over one bin of kVectors * kLanes channels from `channel` on.
// The first cell starts the search and is then compared with itself, which
// changes nothing and spares the loop a special case.
template <class Order, bool kArgmax, int kLanes, int kVectors>
inline void PoolChannels(const typename Order::Storage* map,
                         const Window& window, int64_t channel,
                         typename Order::Storage* pooled, int32_t* argmax) {
  using Keys = Vector<typename Order::Key, kLanes>;
  using Indices = Vector<typename Order::Index, kLanes>;
  const int64_t first = window.rows.begin * window.width + window.columns.begin;
  const typename Order::Storage* source =
      map + first * window.cell_stride + channel;
  Keys best[kVectors];
  Indices best_index[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    best[v] = Order::template LoadKeys<kLanes>(source + v * kLanes);
    best_index[v] = Indices{} + static_cast<typename Order::Index>(first);
  }
  for (int64_t row = window.rows.begin; row < window.rows.end; ++row) {
    const int64_t row_first = row * window.width;
    source =
        map + (row_first + window.columns.begin) * window.cell_stride + channel;
    for (int64_t column = window.columns.begin; column < window.columns.end;
         ++column, source += window.cell_stride) {
      const Indices index =
          Indices{} + static_cast<typename Order::Index>(row_first + column);
      for (int v = 0; v < kVectors; ++v) {
        const Keys keys = Order::template LoadKeys<kLanes>(source + v * kLanes);
        const auto better = Order::Better(keys, best[v]);
        best[v] = better ? keys : best[v];
        if constexpr (kArgmax) {
          best_index[v] = better ? index : best_index[v];
        }
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    Order::template StoreKeys<kLanes>(best[v], pooled + channel + v * kLanes);
    if constexpr (kArgmax) {
      Store(__builtin_convertvector(best_index[v], Vector<int32_t, kLanes>),
            argmax + channel + v * kLanes);
    }
  }
}

// Fewer channels than a vector has lanes: the widest vector that fits, twice,
// the second time flush with the end.
template <class Order, bool kArgmax, int kLanes>
inline void PoolFewChannels(const typename Order::Storage* map,
                            const Window& window, int64_t channels,
                            typename Order::Storage* pooled, int32_t* argmax) {
  if constexpr (kLanes > 1) {
    if (channels < kLanes) {
      PoolFewChannels<Order, kArgmax, kLanes / 2>(map, window, channels, pooled,
                                                  argmax);
      return;
    }
  }
  PoolChannels<Order, kArgmax, kLanes, 1>(map, window, 0, pooled, argmax);
  if (channels > kLanes) {
    PoolChannels<Order, kArgmax, kLanes, 1>(map, window, channels - kLanes,
                                            pooled, argmax);
  }
}

// Channels [channel, channels) in blocks of kVectors vectors, then of fewer;
// the last vector overlaps the one before it rather than leave a tail.
template <class Order, bool kArgmax, int kLanes, int kVectors>
inline void PoolManyChannels(const typename Order::Storage* map,
                             const Window& window, int64_t channel,
                             int64_t channels, typename Order::Storage* pooled,
                             int32_t* argmax) {
  constexpr int kBlock = kLanes * kVectors;
  for (; channel + kBlock <= channels; channel += kBlock) {
    PoolChannels<Order, kArgmax, kLanes, kVectors>(map, window, channel, pooled,
                                                   argmax);
  }
  if (channel == channels) return;
  if constexpr (kVectors > 1) {
    PoolManyChannels<Order, kArgmax, kLanes, kVectors / 2>(
        map, window, channel, channels, pooled, argmax);
  } else {
    PoolChannels<Order, kArgmax, kLanes, 1>(map, window, channels - kLanes,
                                            pooled, argmax);
  }
}

// One bin over all channels of a map whose cells hold their channels side by
// side, into `channels` numbers of `pooled` and of `argmax`.
template <class Order, bool kArgmax>
inline void PoolBin(const typename Order::Storage* map, const Window& window,
                    int64_t channels, typename Order::Storage* pooled,
                    int32_t* argmax) {
  if (window.rows.end <= window.rows.begin ||
      window.columns.end <= window.columns.begin) {
    std::memset(pooled, 0, channels * sizeof(*pooled));
    if constexpr (kArgmax) std::memset(argmax, 0xff, channels * 4);  // -1
    return;
  }
  constexpr int kLanes = kVectorBytes / sizeof(typename Order::Key);
  if (channels >= kLanes) {
    PoolManyChannels<Order, kArgmax, kLanes, kMaxVectors>(
        map, window, 0, channels, pooled, argmax);
  } else {
    PoolFewChannels<Order, kArgmax, kLanes / 2>(map, window, channels, pooled,
                                                argmax);
  }
}

template <class Order, bool kArgmax>
inline void PoolRoi(const Call& call, int64_t roi,
                    const typename Order::Storage* map, int64_t channels,
                    typename Order::Storage* pooled, int32_t* argmax) {
  const Problem& problem = call.problem;
  const Range* rows = call.rows + roi * problem.pooled_height;
  const Range* columns = call.columns + roi * problem.pooled_width;
  for (int64_t ph = 0; ph < problem.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < problem.pooled_width; ++pw) {
      PoolBin<Order, kArgmax>(
          map, Window{rows[ph], columns[pw], problem.width, channels}, channels,
          pooled, argmax);
      pooled += channels;
      if constexpr (kArgmax) argmax += channels;
    }
  }
}

// target[column][row] = source[row][column], in squares that stay in L1.
template <typename T>
inline void Transpose(const T* source, int64_t rows, int64_t columns,
                      int64_t source_stride, T* target, int64_t target_stride) {
  constexpr int64_t kSide = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kSide) {
    const int64_t r1 = r0 + kSide < rows ? r0 + kSide : rows;
    for (int64_t c0 = 0; c0 < columns; c0 += kSide) {
      const int64_t c1 = c0 + kSide < columns ? c0 + kSide : columns;
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) {
          target[c * target_stride + r] = source[r * source_stride + c];
        }
      }
    }
  }
}

inline void FillEmpty(int64_t count, int64_t bytes, void* pooled,
                      int32_t* argmax) {
  std::memset(pooled, 0, count * bytes);
  if (argmax != nullptr) std::memset(argmax, 0xff, count * 4);  // -1
}

template <class Order, bool kArgmax>
void PoolChannelsLast(const Call& call, const Unit& unit) {
  using T = typename Order::Storage;
  const Problem& problem = call.problem;
  const int64_t map_size = problem.height * problem.width * problem.channels;
  const int64_t pooled_size =
      problem.pooled_height * problem.pooled_width * problem.channels;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    T* pooled = static_cast<T*>(call.pooled) + roi * pooled_size;
    int32_t* argmax = kArgmax ? call.argmax_out + roi * pooled_size : nullptr;
    if (call.map_of[roi] < 0) {
      FillEmpty(pooled_size, sizeof(T), pooled, argmax);
      continue;
    }
    const T* map =
        static_cast<const T*>(call.map) + call.map_of[roi] * map_size;
    PoolRoi<Order, kArgmax>(call, roi, map, problem.channels, pooled, argmax);
  }
}

// Rows and columns lie side by side in memory, channels a plane apart: a block
// of channels is turned so that its channels lie side by side, pooled, and the
// results turned back.
template <class Order, bool kArgmax>
void PoolChannelsFirst(const Call& call, const Unit& unit,
                       const Scratch& scratch) {
  using T = typename Order::Storage;
  const Problem& problem = call.problem;
  const int64_t cells = problem.height * problem.width;
  const int64_t bins = problem.pooled_height * problem.pooled_width;
  const int64_t channels = unit.channel_end - unit.channel_begin;
  T* tile = static_cast<T*>(scratch.tile);
  T* tile_pooled = static_cast<T*>(scratch.tile_pooled);
  int32_t* tile_argmax = scratch.tile_argmax;
  bool packed = false;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    const int64_t offset = (roi * problem.channels + unit.channel_begin) * bins;
    T* pooled = static_cast<T*>(call.pooled) + offset;
    int32_t* argmax = kArgmax ? call.argmax_out + offset : nullptr;
    if (call.map_of[roi] < 0) {
      FillEmpty(channels * bins, sizeof(T), pooled, argmax);
      continue;
    }
    if (!packed) {
      const T* planes =
          static_cast<const T*>(call.map) +
          (unit.map * problem.channels + unit.channel_begin) * cells;
      Transpose(planes, channels, cells, cells, tile, channels);
      packed = true;
    }
    PoolRoi<Order, kArgmax>(call, roi, tile, channels, tile_pooled,
                            tile_argmax);
    Transpose(tile_pooled, bins, channels, channels, pooled, bins);
    if constexpr (kArgmax) {
      Transpose(tile_argmax, bins, channels, channels, argmax, bins);
    }
  }
}

template <Element kElement>
void Pool(const Call& call, const Unit& unit, const Scratch& scratch) {
  const bool last = call.problem.layout == Layout::kNHWC;
  using Plain = typename OrderOf<kElement, false>::Type;
  using Indexed = typename OrderOf<kElement, true>::Type;
  if (call.argmax_out == nullptr) {
    last ? PoolChannelsLast<Plain, false>(call, unit)
         : PoolChannelsFirst<Plain, false>(call, unit, scratch);
  } else {
    last ? PoolChannelsLast<Indexed, true>(call, unit)
         : PoolChannelsFirst<Indexed, true>(call, unit, scratch);
  }
}

// Distances between neighbours in a map and in pooled, in elements.
struct Strides {
  int64_t map_cell, map_channel;
  int64_t bin, bin_channel;

  explicit Strides(const Problem& problem) {
    const bool last = problem.layout == Layout::kNHWC;
    map_cell = last ? problem.channels : 1;
    map_channel = last ? 1 : problem.height * problem.width;
    bin = last ? problem.channels : 1;
    bin_channel = last ? 1 : problem.pooled_height * problem.pooled_width;
  }
};

// An argmax that names no cell, -1 or foreign, takes part in nothing: one
// unsigned comparison.
inline bool NamesCell(int32_t argmax, int64_t cells) {
  return static_cast<uint32_t>(argmax) < static_cast<uint64_t>(cells);
}

// pooled[bin, channel] = map[argmax[bin, channel], channel], else 0. Bits are
// copied, so only the size of an element matters.
template <typename Bits>
void Gather(const Call& call, const Unit& unit, const Scratch&) {
  const Problem& problem = call.problem;
  const Strides strides(problem);
  const int64_t cells = problem.height * problem.width;
  const int64_t bins = problem.pooled_height * problem.pooled_width;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    const int64_t offset = roi * bins * problem.channels;
    Bits* pooled = static_cast<Bits*>(call.pooled) + offset;
    const int32_t* argmax = call.argmax + offset;
    if (call.map_of[roi] < 0) {
      FillEmpty(bins * problem.channels, sizeof(Bits), pooled, nullptr);
      continue;
    }
    const Bits* map = static_cast<const Bits*>(call.map) +
                      call.map_of[roi] * cells * problem.channels;
    const bool last = problem.layout == Layout::kNHWC;
    const int64_t outer = last ? bins : problem.channels;
    const int64_t inner = last ? problem.channels : bins;
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t n = 0; n < inner; ++n, ++pooled, ++argmax) {
        const int64_t channel = last ? n : o;
        *pooled = NamesCell(*argmax, cells) ? map[*argmax * strides.map_cell +
                                                  channel * strides.map_channel]
                                            : Bits{0};
      }
    }
  }
}

// Channels last, a unit reads one or two cache lines of every bin, which no
// hardware prefetcher follows.
constexpr int64_t kBinsAhead = 8;

template <typename T>
inline void Prefetch(const T* source, int64_t ahead, int64_t count) {
  // As an address: it may lie past the end, where nothing is fetched.
  const uintptr_t begin =
      reinterpret_cast<uintptr_t>(source) + ahead * sizeof(T);
  for (uint64_t byte = 0; byte < count * sizeof(T); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(begin + byte));
  }
}

template <typename T>
struct DirectSum {
  using Storage = T;
  using Sum = T;
  static inline Sum Widen(Storage value) { return value; }
  static inline Storage Round(Sum sum) { return sum; }
};
template <class Half>
struct HalfSum : Half {
  using Storage = uint16_t;
  using Sum = float;
};

// gradient[argmax[bin, channel], channel] += cotangent[bin, channel] over the
// RoIs of one map in their own order. The unit owns its channels of the map, so
// the order of additions, and every bit, is the same for any number of threads.
//
// Sums lie in the gradient itself where its planes are whole, float32 or wider.
// Channels last, cells of the gradient are often a power of two apart and would
// share a few sets of the cache: sums then lie densely in the tile. Half
// precision is summed in float32 and rounded once.
template <class Number>
void Scatter(const Call& call, const Unit& unit, const Scratch& scratch) {
  using T = typename Number::Storage;
  using Sum = typename Number::Sum;
  const Problem& problem = call.problem;
  const bool last = problem.layout == Layout::kNHWC;
  const Strides strides(problem);
  const int64_t cells = problem.height * problem.width;
  const int64_t bins = problem.pooled_height * problem.pooled_width;
  const int64_t channels = unit.channel_end - unit.channel_begin;
  T* gradient = static_cast<T*>(call.gradient) +
                unit.map * cells * problem.channels +
                unit.channel_begin * strides.map_channel;

  Sum* sums = static_cast<Sum*>(scratch.tile);
  bool direct = false;
  if constexpr (std::is_same_v<T, Sum>) {
    direct = sums == nullptr;  // the plan gave no tile
    if (direct) sums = gradient;
  }
  const int64_t sum_cell = last ? channels : 1;
  const int64_t sum_channel = last ? 1 : cells;
  std::memset(sums, 0, cells * channels * sizeof(Sum));

  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t offset = call.order[i] * bins * problem.channels +
                           unit.channel_begin * strides.bin_channel;
    const T* cotangent = static_cast<const T*>(call.cotangent) + offset;
    const int32_t* argmax = call.argmax + offset;
    const int64_t outer = last ? bins : channels;
    const int64_t inner = last ? channels : bins;
    const int64_t stride = last ? problem.channels : bins;
    for (int64_t o = 0; o < outer; ++o, cotangent += stride, argmax += stride) {
      if (last) {
        Prefetch(cotangent, kBinsAhead * stride, channels);
        Prefetch(argmax, kBinsAhead * stride, channels);
      }
      for (int64_t n = 0; n < inner; ++n) {
        if (!NamesCell(argmax[n], cells)) continue;
        const int64_t channel = last ? n : o;
        sums[argmax[n] * sum_cell + channel * sum_channel] +=
            Number::Widen(cotangent[n]);
      }
    }
  }

  if (direct) return;
  const int64_t outer = last ? cells : 1;
  const int64_t inner = last ? channels : channels * cells;
  for (int64_t o = 0; o < outer; ++o, gradient += strides.map_cell) {
    for (int64_t n = 0; n < inner; ++n) {
      gradient[n] = Number::Round(*sums++);
    }
  }
}

}  // namespace

// In the order of Element.
extern const KernelTable kTable = {
#define JAX_ROIPOOL_STRING_(x) #x
#define JAX_ROIPOOL_STRING(x) JAX_ROIPOOL_STRING_(x)
    JAX_ROIPOOL_STRING(JAX_ROIPOOL_TARGET),
    {Pool<Element::kFloat16>, Pool<Element::kBFloat16>, Pool<Element::kFloat32>,
     Pool<Element::kFloat64>},
    {Gather<uint16_t>, Gather<uint16_t>, Gather<uint32_t>, Gather<uint64_t>},
    {Scatter<HalfSum<Float16>>, Scatter<HalfSum<BFloat16>>,
     Scatter<DirectSum<float>>, Scatter<DirectSum<double>>},
};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET
