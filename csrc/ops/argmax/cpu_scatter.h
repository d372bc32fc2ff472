// Adding cotangents into a map where argmax says.

#ifndef JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_SCATTER_H_
#define JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_SCATTER_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/elements.h"
#include "core/sizes.h"
#include "ops/argmax/calls.h"
#include "ops/argmax/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// sums[argmax[i] * cell_stride + i * stride] += cotangent[i], one after
// another. Half precision is widened some at a time, which the compiler does in
// vectors.
template <class Numbers>
inline void AddInto(const typename Numbers::Storage* cotangent,
                    const int32_t* argmax, int64_t count, int64_t cells,
                    typename Numbers::Number* sums, int64_t cell_stride,
                    int64_t stride) {
  using Sum = typename Numbers::Number;
  constexpr bool kDirect = std::is_same_v<typename Numbers::Storage, Sum>;
  constexpr int64_t kTogether = 64;
  Sum widened[kDirect ? 1 : kTogether];
  for (int64_t begin = 0; begin < count; begin += kTogether) {
    const int64_t end = begin + kTogether < count ? begin + kTogether : count;
    if constexpr (!kDirect) {
      for (int64_t i = begin; i < end; ++i) {
        widened[i - begin] = Numbers::Widen(cotangent[i]);
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
template <Element kElement>
void ScatterChannelsFirst(const PlannedArgmaxScatter& call,
                          const ArgmaxScatterUnit& unit,
                          const ArgmaxScatterScratch& scratch) {
  using Numbers = ElementOf<kElement>;
  using T = typename Numbers::Storage;
  using Sum = typename Numbers::Number;
  const MapPlace at = PlaceOf(call.maps, unit.map);
  const int64_t cells = call.maps.levels[at.level].cells();
  const int64_t bins = call.bins.count();
  const int64_t channels = unit.end - unit.begin;
  T* gradient = MapData<T>(call.maps, call.gradients, at) + unit.begin * cells;
  Sum* sums = static_cast<Sum*>(scratch.sums);
  if constexpr (std::is_same_v<T, Sum>) sums = gradient;
  std::memset(sums, 0, cells * channels * sizeof(Sum));
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t offset = call.order[i] * call.bins.size() + unit.begin * bins;
    for (int64_t c = 0; c < channels; ++c) {
      AddInto<Numbers>(
          static_cast<const T*>(call.cotangent) + offset + c * bins,
          call.argmax + offset + c * bins, bins, cells, sums + c * cells, 1, 0);
    }
  }
  if constexpr (!std::is_same_v<T, Sum>) {
    for (int64_t i = 0; i < cells * channels; ++i) {
      gradient[i] = Numbers::Round(sums[i]);
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
template <Element kElement>
void ScatterChannelsLast(const PlannedArgmaxScatter& call,
                         const ArgmaxScatterUnit& unit,
                         const ArgmaxScatterScratch& scratch) {
  using Numbers = ElementOf<kElement>;
  using T = typename Numbers::Storage;
  using Sum = typename Numbers::Number;
  const MapPlace at = PlaceOf(call.maps, unit.map);
  const int64_t cells = call.maps.levels[at.level].cells();
  const int64_t bins = call.bins.count();
  const int64_t channels = unit.end - unit.begin;
  Sum* sums = static_cast<Sum*>(scratch.sums);
  std::memset(sums, 0, cells * channels * sizeof(Sum));
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t offset = call.order[i] * call.bins.size() + unit.begin;
    const T* cotangent = static_cast<const T*>(call.cotangent) + offset;
    const int32_t* argmax = call.argmax + offset;
    for (int64_t bin = 0; bin < bins; ++bin) {
      Prefetch(cotangent, kBinsAhead * call.maps.channels, channels);
      Prefetch(argmax, kBinsAhead * call.maps.channels, channels);
      AddInto<Numbers>(cotangent, argmax, channels, cells, sums, channels, 1);
      cotangent += call.maps.channels;
      argmax += call.maps.channels;
    }
  }
  T* gradient = MapData<T>(call.maps, call.gradients, at) + unit.begin;
  for (int64_t cell = 0; cell < cells; ++cell) {
    for (int64_t c = 0; c < channels; ++c)
      gradient[c] = Numbers::Round(*sums++);
    gradient += call.maps.channels;
  }
}

template <Element kElement>
void Scatter(const PlannedArgmaxScatter& call, const ArgmaxScatterUnit& unit,
             const ArgmaxScatterScratch& scratch) {
  if (unit.roi_begin == unit.roi_end) {
    using T = typename ElementOf<kElement>::Storage;
    T* map =
        MapData<T>(call.maps, call.gradients, PlaceOf(call.maps, unit.map));
    std::memset(map + unit.begin, 0, (unit.end - unit.begin) * sizeof(T));
  } else if (call.maps.layout == Layout::kNHWC) {
    ScatterChannelsLast<kElement>(call, unit, scratch);
  } else {
    ScatterChannelsFirst<kElement>(call, unit, scratch);
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_ARGMAX_CPU_SCATTER_H_
