// Elements as vectors of the numbers that they are summed in, and combining
// the entries of bands over such vectors.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_LANES_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_LANES_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "core/elements.h"
#include "core/half.h"
#include "core/sizes.h"
#include "cpu/transposes.h"
#include "cpu/vectors.h"
#include "ops/bands/cpu_bands.h"
#include "ops/bands/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

template <Element kElement>
struct Lanes {
  using Numbers = ElementOf<kElement>;
  using Storage = typename Numbers::Storage;
  using Number = typename Numbers::Number;
  static constexpr bool kDirect = std::is_same_v<Storage, Number>;
  static constexpr int kCount = kVectorBytes / sizeof(Number);
  static_assert(kCount == kSquareSide<Lanes>);
  using V = Vector<Number, kCount>;
  // Of halves, which are converted in vectors: of loops over lanes within a
  // kernel compilers make none.
  using Half =
      std::conditional_t<kElement == Element::kFloat16, Float16, BFloat16>;
  using Bits = Vector<uint32_t, kCount>;
  using Halves = Vector<uint16_t, kCount>;

  static inline V Load(const Storage* source) {
    if constexpr (kDirect) {
      return cpu::JAX_ROIPOOL_ISA::Load<V>(source);
    } else {
      const auto halves = cpu::JAX_ROIPOOL_ISA::Load<Halves>(source);
#if defined(__AVX512F__)
      if constexpr (kElement == Element::kFloat16) {
        // The unmasked one has GCC warn of its own header.
        return (V)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
      }
#endif
      return Half::template WidenBits<V>(__builtin_convertvector(halves, Bits));
    }
  }
  static inline void Store(V vector, Storage* target) {
    if constexpr (kDirect) {
      cpu::JAX_ROIPOOL_ISA::Store(vector, target);
    } else {
      const Bits bits = Half::template RoundBits<Bits>(vector);
      const auto halves = __builtin_convertvector(bits, Halves);
      cpu::JAX_ROIPOOL_ISA::Store(halves, target);
    }
  }
  // The first `count`, the other lanes zero.
  static inline V LoadFirst(const Storage* source, int64_t count) {
    Storage copy[kCount] = {};
    std::memcpy(copy, source, count * sizeof(Storage));
    return Load(copy);
  }
  static inline void StoreFirst(V vector, int64_t count, Storage* target) {
    Storage copy[kCount];
    Store(vector, copy);
    std::memcpy(target, copy, count * sizeof(Storage));
  }
};

// Neighbouring channels that are done together: kVectors whole vectors, or
// the first `count` lanes of one.
template <class L, int kVectors, bool kPartial>
struct Channels {
  static_assert(!kPartial || kVectors == 1);
  static constexpr int kVectorCount = kVectors;
  static constexpr int64_t kWidth = int64_t{kVectors} * L::kCount;

  int64_t count;

  inline typename L::V Load(const typename L::Storage* source, int v) const {
    if constexpr (kPartial) return L::LoadFirst(source, count);
    return L::Load(source + v * L::kCount);
  }
  inline void Store(typename L::V vector, int v,
                    typename L::Storage* target) const {
    if constexpr (kPartial) {
      L::StoreFirst(vector, count, target);
    } else {
      L::Store(vector, target + v * L::kCount);
    }
  }

  // The same of sums.
  inline typename L::V LoadNumbers(const typename L::Number* source,
                                   int v) const {
    using V = typename L::V;
    if constexpr (kPartial) return LoadFirst<V>(source, count);
    return cpu::JAX_ROIPOOL_ISA::Load<V>(source + v * L::kCount);
  }
  inline void StoreNumbers(typename L::V vector, int v,
                           typename L::Number* target) const {
    if constexpr (kPartial) {
      StoreFirst(vector, count, target);
    } else {
      cpu::JAX_ROIPOOL_ISA::Store(vector, target + v * L::kCount);
    }
  }
};

// run(Channels, first) for all of [begin, end), as many of them at once as
// there may be.
template <class L, int kVectors, typename Run>
inline void ForEachBlock(int64_t begin, int64_t end, const Run& run) {
  constexpr int64_t kWidth = int64_t{kVectors} * L::kCount;
  for (; begin + kWidth <= end; begin += kWidth) {
    run(Channels<L, kVectors, false>{kWidth}, begin);
  }
  if constexpr (kVectors > 1) {
    ForEachBlock<L, kVectors / 2>(begin, end, run);
  } else if (begin < end) {
    run(Channels<L, 1, true>{end - begin}, begin);
  }
}

template <class L, int kWeights>
using BandsFor = RoiBands<typename L::Number, kWeights>;

template <class L, int kWeights>
inline BandsFor<L, kWeights> BandsIn(const BandsScratch<kWeights>& scratch) {
  if constexpr (std::is_same_v<typename L::Number, float>) {
    return scratch.narrow;
  } else {
    return scratch.wide;
  }
}

// columns[place][weight] = the entries of a row of bins, combined in each
// column that the RoI reads. Channels last: `map` has the channels' first cell.
template <class L, int kWeights, class Block>
inline void CombineRows(const Block& block, const BandsFor<L, kWeights>& bands,
                        const Range& row, const typename L::Storage* map,
                        int64_t row_stride, int64_t cell_stride,
                        typename L::Number* columns) {
  using V = typename L::V;
  constexpr int kVectors = Block::kVectorCount;
  for (int32_t place = 0; place < bands.num_columns; ++place) {
    const auto* column = map + bands.column_of[place] * cell_stride;
    V sums[kWeights][kVectors] = {};
    for (int32_t e = row.begin; e < row.end; ++e) {
      const auto& entry = bands.rows.entries[e];
      const auto* cell = column + entry.at * row_stride;
      V features[kVectors];
      for (int v = 0; v < kVectors; ++v) features[v] = block.Load(cell, v);
      for (int k = 0; k < kWeights; ++k) {
        if (kWeights > 1 && entry.weights[k] == 0) continue;
        for (int v = 0; v < kVectors; ++v) {
          sums[k][v] += features[v] * entry.weights[k];
        }
      }
    }
    for (int k = 0; k < kWeights; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        Store(sums[k][v], columns);
        columns += L::kCount;
      }
    }
  }
}

// The same, channels first: of up to a vector of channels, each a plane. Rows
// are combined over neighbouring columns, and then turned. Beyond a row lies
// memory that may be read in vain, from `end` on does not.
template <class L>
struct MapPlanes {
  const typename L::Storage* first;
  const typename L::Storage* end;
  int64_t plane_stride, width;
  int64_t count;
};
template <class L, int kWeights>
inline void CombineRows(const MapPlanes<L>& planes,
                        const BandsFor<L, kWeights>& bands, const Range& row,
                        typename L::Number* columns) {
  using V = typename L::V;
  constexpr int kSide = L::kCount;
  const auto load = [&](const typename L::Storage* source) {
    const int64_t left = planes.end - source;
    return left >= kSide ? L::Load(source)
                         : L::LoadFirst(source, left > 0 ? left : 0);
  };
  for (int32_t x = bands.span.begin; x < bands.span.end; x += kSide) {
    V squares[kWeights][kSide];
    for (int i = 0; i < kSide; ++i) {
      V sums[kWeights] = {};
      for (int32_t e = i < planes.count ? row.begin : row.end; e < row.end;
           ++e) {
        const auto& entry = bands.rows.entries[e];
        const V features = load(planes.first + i * planes.plane_stride +
                                entry.at * planes.width + x);
        for (int k = 0; k < kWeights; ++k) {
          if (kWeights > 1 && entry.weights[k] == 0) continue;
          sums[k] += features * entry.weights[k];
        }
      }
      for (int k = 0; k < kWeights; ++k) squares[k][i] = sums[k];
    }
    for (int k = 0; k < kWeights; ++k) {
      TransposeSquare<typename L::Number, kSide>(squares[k]);
    }
    const int32_t* places = bands.place_of + (x - bands.span.begin);
    for (int i = 0; i < kSide && x + i < bands.span.end; ++i) {
      if (places[i] < 0) continue;
      for (int k = 0; k < kWeights; ++k) {
        Store(squares[k][i], columns + (places[i] * kWeights + k) * kSide);
      }
    }
  }
}

// Turns the cotangent of up to a vector of channels, [count][bins], into
// tile[bins][lanes]; lanes beyond are zero.
template <class L>
inline void TurnCotangent(const typename L::Storage* cotangent, int64_t count,
                          int64_t bins, typename L::Number* tile) {
  using Storage = typename L::Storage;
  constexpr int kSide = L::kCount;
  Transpose<kSide>(
      cotangent, count, bins, bins,
      [&](int64_t bin, int64_t, Vector<Storage, kSide> lanes, int64_t height) {
        Storage copy[kSide] = {};
        StoreFirst(lanes, height, copy);
        Store(L::Load(copy), tile + bin * kSide);
      });
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_LANES_H_
