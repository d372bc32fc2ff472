// Searching bins with vectors, and what empty bins hold.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_SEARCH_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_SEARCH_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/compare.h"
#include "core/half.h"
#include "core/sizes.h"
#include "cpu/vectors.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// How the elements of one type are compared: their storage, the key that stands
// for a value while bins are searched, and the lanes of the index beside it.

template <typename T, typename IndexT>
struct FloatCompare {
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

// 16-bit floats are compared as integers. A lane is as wide as the index beside
// it, or 16 bits where no index is wanted.
template <uint16_t kInfinity, typename KeyT, typename IndexT>
struct HalfCompare {
  using Storage = uint16_t;
  using Key = KeyT;
  using Index = IndexT;

  template <int kLanes>
  static inline Vector<Key, kLanes> LoadKeys(const Storage* source) {
    return KeysOfHalves<kInfinity>(__builtin_convertvector(
        (Load<Vector<int16_t, kLanes>>(source)), Vector<Key, kLanes>));
  }
  template <int kLanes>
  static inline void StoreKeys(Vector<Key, kLanes> keys, Storage* target) {
    Store(__builtin_convertvector(HalvesOfKeys(keys), Vector<int16_t, kLanes>),
          target);
  }
  static constexpr bool kHasNaN = false;
};

template <Element kElement, bool kArgmax>
struct CompareOf;
template <bool kArgmax>
struct CompareOf<Element::kFloat32, kArgmax> {
  using Type = FloatCompare<float, int32_t>;
};
template <bool kArgmax>
struct CompareOf<Element::kFloat64, kArgmax> {
  using Type = FloatCompare<double, int64_t>;
};
template <bool kArgmax>
struct CompareOf<Element::kFloat16, kArgmax> {
  using Type =
      HalfCompare<Float16::kInfinity,
                  std::conditional_t<kArgmax, int32_t, int16_t>, int32_t>;
};
template <bool kArgmax>
struct CompareOf<Element::kBFloat16, kArgmax> {
  using Type =
      HalfCompare<BFloat16::kInfinity,
                  std::conditional_t<kArgmax, int32_t, int16_t>, int32_t>;
};

// The search for the best of kLanes channels' cells, and where wanted for its
// index. kNaN as in compare.h.
template <class Compare, bool kArgmax, int kLanes, bool kNaN = Compare::kHasNaN>
struct Search;

template <class Compare, int kLanes, bool kNaN>
struct Search<Compare, true, kLanes, kNaN> {
  using Keys = Vector<typename Compare::Key, kLanes>;
  using Indices = Vector<typename Compare::Index, kLanes>;
  Keys best;
  Indices index;

  inline void Start(Keys keys, Indices at) {
    best = keys;
    index = at;
  }
  // A cell that comes after all those seen.
  inline void See(Keys keys, Indices at) {
    const auto better = Beats<kNaN>(keys, best);
    best = better ? keys : best;
    index = better ? at : index;
  }
  // A cell that may come before some of those seen, or be one of them.
  inline void SeeAgain(Keys keys, Indices at) {
    const auto better = BeatsInAnyOrder<kNaN>(keys, at, best, index);
    best = better ? keys : best;
    index = better ? at : index;
  }
  inline Keys Best() const { return best; }
};

// Without an index the comparison need not know of NaNs: that one was seen is
// noted beside it, which shortens the chain of instructions from cell to cell.
template <class Compare, int kLanes, bool kNaN>
struct Search<Compare, false, kLanes, kNaN> {
  using Keys = Vector<typename Compare::Key, kLanes>;
  using Indices = Vector<typename Compare::Index, kLanes>;
  Keys best;
  decltype(best != best) nan;

  inline void Start(Keys keys, Indices = Indices{}) {
    best = keys;
    if constexpr (kNaN) nan = keys != keys;
  }
  inline void See(Keys keys, Indices = Indices{}) {
    best = Beats<false>(keys, best) ? keys : best;
    if constexpr (kNaN) nan |= keys != keys;
  }
  inline void SeeAgain(Keys keys, Indices = Indices{}) { See(keys); }
  inline Keys Best() const {
    if constexpr (kNaN) {
      return nan ? Keys{} +
                       std::numeric_limits<typename Compare::Key>::quiet_NaN()
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
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_SEARCH_H_
