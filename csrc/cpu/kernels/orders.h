// How values are compared while bins are searched, and what empty bins hold.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_ORDERS_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_ORDERS_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/kernels/vectors.h"
#include "half.h"
#include "problem.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
namespace {

// An order is how one element type is compared: its storage, the key that
// stands for a value while bins are searched, and the lanes of the index beside
// it. First of equals stays, a NaN beats numbers, +0 equals -0.

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
  static constexpr bool kHasNaN = true;
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
  static constexpr bool kHasNaN = false;
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

// Whether `key`, of a later cell, takes the place of the best so far; kNaN says
// whether either may be a NaN.
template <bool kNaN, typename V>
inline auto Better(V key, V best) {
  if constexpr (kNaN) {
    return ~(key <= best) & (best == best);
  } else {
    return key > best;
  }
}

// The search for the best of kLanes channels' cells, and where wanted for its
// index. kNaN as above.
template <class Order, bool kArgmax, int kLanes, bool kNaN = Order::kHasNaN>
struct Search;

template <class Order, int kLanes, bool kNaN>
struct Search<Order, true, kLanes, kNaN> {
  using Keys = Vector<typename Order::Key, kLanes>;
  using Indices = Vector<typename Order::Index, kLanes>;
  Keys best;
  Indices index;

  inline void Start(Keys keys, Indices at) {
    best = keys;
    index = at;
  }
  // A cell that comes after all those seen.
  inline void See(Keys keys, Indices at) {
    const auto better = Better<kNaN>(keys, best);
    best = better ? keys : best;
    index = better ? at : index;
  }
  // A cell that may come before some of those seen, or be one of them.
  inline void SeeAgain(Keys keys, Indices at) {
    const auto better =
        Better<kNaN>(keys, best) | (~Better<kNaN>(best, keys) & (at < index));
    best = better ? keys : best;
    index = better ? at : index;
  }
  inline Keys Best() const { return best; }
};

// Without an index the comparison need not know of NaNs: that one was seen is
// noted beside it, which shortens the chain of instructions from cell to cell.
template <class Order, int kLanes, bool kNaN>
struct Search<Order, false, kLanes, kNaN> {
  using Keys = Vector<typename Order::Key, kLanes>;
  using Indices = Vector<typename Order::Index, kLanes>;
  Keys best;
  decltype(best != best) nan;

  inline void Start(Keys keys, Indices = Indices{}) {
    best = keys;
    if constexpr (kNaN) nan = keys != keys;
  }
  inline void See(Keys keys, Indices = Indices{}) {
    best = keys > best ? keys : best;
    if constexpr (kNaN) nan |= keys != keys;
  }
  inline void SeeAgain(Keys keys, Indices = Indices{}) { See(keys); }
  inline Keys Best() const {
    if constexpr (kNaN) {
      return nan ? Keys{} +
                       std::numeric_limits<typename Order::Key>::quiet_NaN()
                 : best;
    } else {
      return best;
    }
  }
};

// `count` empty bins, of values of `bytes` bytes.
inline void FillEmpty(int64_t count, int64_t bytes, void* pooled,
                      int32_t* argmax) {
  std::memset(pooled, 0, count * bytes);
  if (argmax != nullptr) std::memset(argmax, 0xff, count * 4);  // -1
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_ORDERS_H_
