// The linear ops: reading a map where argmax says, and adding into one there.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_LINEAR_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_LINEAR_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/kernels/vectors.h"
#include "half.h"
#include "problem.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
namespace {

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
  const bool last = problem.layout == Layout::kNHWC;
  const int64_t cells = problem.cells();
  const int64_t cell_stride = last ? problem.channels : 1;
  const int64_t channel_stride = last ? 1 : cells;
  const int64_t outer = last ? problem.bins() : problem.channels;
  const int64_t inner = last ? problem.channels : problem.bins();
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    const int64_t offset = roi * problem.pooled_size();
    Bits* pooled = static_cast<Bits*>(call.pooled) + offset;
    const int32_t* argmax = call.argmax + offset;
    if (call.map_of[roi] < 0) {
      std::memset(pooled, 0, problem.pooled_size() * sizeof(Bits));
      continue;
    }
    const Bits* map = static_cast<const Bits*>(call.map) +
                      call.map_of[roi] * problem.map_size();
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t n = 0; n < inner; ++n, ++pooled, ++argmax) {
        const int64_t channel = last ? n : o;
        *pooled = NamesCell(*argmax, cells)
                      ? map[*argmax * cell_stride + channel * channel_stride]
                      : Bits{0};
      }
    }
  }
}

template <typename T>
struct DirectSum {
  using Storage = T;
  using Sum = T;
  static inline Storage Round(Sum sum) { return sum; }
};
template <class Half>
struct HalfSum : Half {
  using Storage = uint16_t;
  using Sum = float;
};

// sums[argmax[i] * cell_stride + i * stride] += cotangent[i], one after
// another. Half precision is widened some at a time, which the compiler does in
// vectors.
template <class Number>
inline void AddInto(const typename Number::Storage* cotangent,
                    const int32_t* argmax, int64_t count, int64_t cells,
                    typename Number::Sum* sums, int64_t cell_stride,
                    int64_t stride) {
  using Sum = typename Number::Sum;
  constexpr bool kDirect = std::is_same_v<typename Number::Storage, Sum>;
  constexpr int64_t kTogether = 64;
  Sum widened[kDirect ? 1 : kTogether];
  for (int64_t begin = 0; begin < count; begin += kTogether) {
    const int64_t end = begin + kTogether < count ? begin + kTogether : count;
    if constexpr (!kDirect) {
      for (int64_t i = begin; i < end; ++i) {
        widened[i - begin] = Number::Widen(cotangent[i]);
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      if (!NamesCell(argmax[i], cells)) continue;
      Sum& sum = sums[argmax[i] * cell_stride + i * stride];
      if constexpr (kDirect) {
        sum += cotangent[i];
      } else {
        sum += widened[i - begin];
      }
    }
  }
}

// gradient[argmax[bin, channel], channel] += cotangent[bin, channel] over the
// RoIs of one map in their own order. The unit owns its channels of the map, so
// the order of additions, and every bit, is the same for any number of threads.
//
// Channels first, sums lie in the gradient itself where it is float32 or wider.
// Half precision is summed in float32 and rounded once.
template <class Number>
void ScatterChannelsFirst(const Call& call, const Unit& unit,
                          const Scratch& scratch) {
  using T = typename Number::Storage;
  using Sum = typename Number::Sum;
  const Problem& problem = call.problem;
  const int64_t cells = problem.cells(), bins = problem.bins();
  const int64_t channels = unit.channel_end - unit.channel_begin;
  T* gradient = static_cast<T*>(call.gradient) + unit.map * problem.map_size() +
                unit.channel_begin * cells;
  Sum* sums = static_cast<Sum*>(scratch.sums);
  if constexpr (std::is_same_v<T, Sum>) sums = gradient;
  std::memset(sums, 0, cells * channels * sizeof(Sum));
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t offset =
        call.order[i] * problem.pooled_size() + unit.channel_begin * bins;
    for (int64_t c = 0; c < channels; ++c) {
      AddInto<Number>(static_cast<const T*>(call.cotangent) + offset + c * bins,
                      call.argmax + offset + c * bins, bins, cells,
                      sums + c * cells, 1, 0);
    }
  }
  if constexpr (!std::is_same_v<T, Sum>) {
    for (int64_t i = 0; i < cells * channels; ++i) {
      gradient[i] = Number::Round(sums[i]);
    }
  }
}

// How far ahead cotangents are fetched: of each bin a unit reads one or two
// cache lines, which no hardware follows.
constexpr int64_t kBinsAhead = 6;

template <typename T>
inline void Prefetch(const T* source, int64_t ahead, int64_t count) {
  // As an address: it may lie past the end, where nothing is fetched.
  const uintptr_t begin =
      reinterpret_cast<uintptr_t>(source) + ahead * sizeof(T);
  for (uint64_t byte = 0; byte < count * sizeof(T); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(begin + byte), 0, 2);
  }
}

// As above. Channels last, cells of the gradient are often a power of two apart
// and would share a few sets of the cache: sums lie side by side elsewhere.
template <class Number>
void ScatterChannelsLast(const Call& call, const Unit& unit,
                         const Scratch& scratch) {
  using T = typename Number::Storage;
  using Sum = typename Number::Sum;
  const Problem& problem = call.problem;
  const int64_t cells = problem.cells(), bins = problem.bins();
  const int64_t channels = unit.channel_end - unit.channel_begin;
  Sum* sums = static_cast<Sum*>(scratch.sums);
  std::memset(sums, 0, cells * channels * sizeof(Sum));
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t offset =
        call.order[i] * problem.pooled_size() + unit.channel_begin;
    const T* cotangent = static_cast<const T*>(call.cotangent) + offset;
    const int32_t* argmax = call.argmax + offset;
    for (int64_t bin = 0; bin < bins; ++bin) {
      Prefetch(cotangent, kBinsAhead * problem.channels, channels);
      Prefetch(argmax, kBinsAhead * problem.channels, channels);
      AddInto<Number>(cotangent, argmax, channels, cells, sums, channels, 1);
      cotangent += problem.channels;
      argmax += problem.channels;
    }
  }
  T* gradient = static_cast<T*>(call.gradient) + unit.map * problem.map_size() +
                unit.channel_begin;
  for (int64_t cell = 0; cell < cells; ++cell) {
    for (int64_t c = 0; c < channels; ++c) gradient[c] = Number::Round(*sums++);
    gradient += problem.channels;
  }
}

template <class Number>
void Scatter(const Call& call, const Unit& unit, const Scratch& scratch) {
  if (call.problem.layout == Layout::kNHWC) {
    ScatterChannelsLast<Number>(call, unit, scratch);
  } else {
    ScatterChannelsFirst<Number>(call, unit, scratch);
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_LINEAR_H_
