// Pooling where a cell's channels lie side by side: bin by bin.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BINS_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BINS_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "cpu/vectors.h"
#include "ops/max/cpu_kernels.h"
#include "ops/max/cpu_search.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// Where a bin lies in a map whose cells are `cell_stride` elements apart.
struct Window {
  Range rows, columns;
  int64_t width;        // cells per row of the map
  int64_t cell_stride;  // elements per cell
};

// The maximum over one bin of kVectors * kLanes channels from `channel` on.
template <class Compare, bool kArgmax, int kLanes, int kVectors>
inline void PoolChannels(const typename Compare::Storage* map,
                         const Window& window, int64_t channel,
                         typename Compare::Storage* pooled, int32_t* argmax) {
  using Indices = Vector<typename Compare::Index, kLanes>;
  const int64_t first = window.rows.begin * window.width + window.columns.begin;
  const typename Compare::Storage* source =
      map + first * window.cell_stride + channel;
  Search<Compare, kArgmax, kLanes> search[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    search[v].Start(Compare::template LoadKeys<kLanes>(source + v * kLanes),
                    Indices{} + static_cast<typename Compare::Index>(first));
  }
  int64_t column = window.columns.begin + 1;
  for (int64_t row = window.rows.begin; row < window.rows.end; ++row) {
    const int64_t row_first = row * window.width;
    source = map + (row_first + column) * window.cell_stride + channel;
    for (; column < window.columns.end;
         ++column, source += window.cell_stride) {
      const Indices index =
          Indices{} + static_cast<typename Compare::Index>(row_first + column);
      for (int v = 0; v < kVectors; ++v) {
        search[v].See(Compare::template LoadKeys<kLanes>(source + v * kLanes),
                      index);
      }
    }
    column = window.columns.begin;
  }
  for (int v = 0; v < kVectors; ++v) {
    Compare::template StoreKeys<kLanes>(search[v].Best(),
                                        pooled + channel + v * kLanes);
    if constexpr (kArgmax) {
      Store(__builtin_convertvector(search[v].index, Vector<int32_t, kLanes>),
            argmax + channel + v * kLanes);
    }
  }
}

// Fewer channels than a vector has lanes: the widest vector that fits, twice,
// the second time flush with the end.
template <class Compare, bool kArgmax, int kLanes>
inline void PoolFewChannels(const typename Compare::Storage* map,
                            const Window& window, int64_t channels,
                            typename Compare::Storage* pooled,
                            int32_t* argmax) {
  if constexpr (kLanes > 1) {
    if (channels < kLanes) {
      PoolFewChannels<Compare, kArgmax, kLanes / 2>(map, window, channels,
                                                    pooled, argmax);
      return;
    }
  }
  PoolChannels<Compare, kArgmax, kLanes, 1>(map, window, 0, pooled, argmax);
  if (channels > kLanes) {
    PoolChannels<Compare, kArgmax, kLanes, 1>(map, window, channels - kLanes,
                                              pooled, argmax);
  }
}

// Channels [channel, channels) in blocks of kVectors vectors, then of fewer;
// the last vector overlaps the one before it rather than leave a tail.
template <class Compare, bool kArgmax, int kLanes, int kVectors>
inline void PoolManyChannels(const typename Compare::Storage* map,
                             const Window& window, int64_t channel,
                             int64_t channels,
                             typename Compare::Storage* pooled,
                             int32_t* argmax) {
  constexpr int kBlock = kLanes * kVectors;
  for (; channel + kBlock <= channels; channel += kBlock) {
    PoolChannels<Compare, kArgmax, kLanes, kVectors>(map, window, channel,
                                                     pooled, argmax);
  }
  if (channel == channels) return;
  if constexpr (kVectors > 1) {
    PoolManyChannels<Compare, kArgmax, kLanes, kVectors / 2>(
        map, window, channel, channels, pooled, argmax);
  } else {
    PoolChannels<Compare, kArgmax, kLanes, 1>(map, window, channels - kLanes,
                                              pooled, argmax);
  }
}

// One bin over all channels of a map whose cells hold their channels side by
// side, into `channels` numbers of `pooled` and of `argmax`.
template <class Compare, bool kArgmax>
inline void PoolBin(const typename Compare::Storage* map, const Window& window,
                    int64_t channels, typename Compare::Storage* pooled,
                    int32_t* argmax) {
  if (window.rows.end <= window.rows.begin ||
      window.columns.end <= window.columns.begin) {
    std::memset(pooled, 0, channels * sizeof(*pooled));
    if constexpr (kArgmax) std::memset(argmax, 0xff, channels * 4);  // -1
    return;
  }
  constexpr int kLanes = kVectorBytes / sizeof(typename Compare::Key);
  if (channels >= kLanes) {
    PoolManyChannels<Compare, kArgmax, kLanes, kMaxVectors>(
        map, window, 0, channels, pooled, argmax);
  } else {
    PoolFewChannels<Compare, kArgmax, kLanes / 2>(map, window, channels, pooled,
                                                  argmax);
  }
}

template <class Compare, bool kArgmax>
inline void PoolRoi(const PlannedMaxPool& call, int64_t roi,
                    const typename Compare::Storage* map, int64_t width,
                    int64_t channels, typename Compare::Storage* pooled,
                    int32_t* argmax) {
  const Bins& bins = call.bins;
  const Range* rows = call.rows + roi * bins.height;
  const Range* columns = call.columns + roi * bins.width;
  for (int64_t ph = 0; ph < bins.height; ++ph) {
    for (int64_t pw = 0; pw < bins.width; ++pw) {
      PoolBin<Compare, kArgmax>(map,
                                Window{rows[ph], columns[pw], width, channels},
                                channels, pooled, argmax);
      pooled += channels;
      if constexpr (kArgmax) argmax += channels;
    }
  }
}

template <class Compare, bool kArgmax>
void PoolByBins(const PlannedMaxPool& call, const MaxPoolUnit& unit) {
  using T = typename Compare::Storage;
  const int64_t pooled_size = call.bins.size();
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    T* pooled = static_cast<T*>(call.pooled) + roi * pooled_size;
    int32_t* argmax = kArgmax ? call.argmax + roi * pooled_size : nullptr;
    if (call.map_of[roi] < 0) {
      FillEmpty(pooled_size, sizeof(T), pooled, argmax);
      continue;
    }
    const MapPlace at = PlaceOf(call.maps, call.map_of[roi]);
    PoolRoi<Compare, kArgmax>(
        call, roi, MapData<const T>(call.maps, call.features, at),
        call.maps.levels[at.level].width, call.bins.channels, pooled, argmax);
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BINS_H_
