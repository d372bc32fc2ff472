// Pooling from tables of block maxima: one that the RoIs of a unit share, or
// one of its own cells for each RoI.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_POOL_FROM_TABLES_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_POOL_FROM_TABLES_H_

#include <cstdint>
#include <cstring>

#include "core/sizes.h"
#include "cpu/transposes.h"
#include "cpu/vectors.h"
#include "ops/max/cpu_block_table.h"
#include "ops/max/cpu_kernels.h"
#include "ops/max/cpu_search.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// Channels [begin, end), kVectors vectors at most, of RoIs.
template <class Compare, bool kArgmax, int kVectors>
class TablePooling {
 public:
  TablePooling(const PlannedMaxPool& call, const MaxPoolScratch& scratch)
      : call_(call), scratch_(scratch), table_(call, scratch) {}

  void BeginTable(int64_t map, int64_t begin, int64_t end, BlockSize block,
                  int64_t top, Range columns) {
    // A table has a full vector of channels: where too few are left, some of
    // those before are in it and not in the results.
    const int64_t flush = call_.maps.channels - kVectors * kSide;
    const int64_t first = begin < flush ? begin : flush < 0 ? 0 : flush;
    begin_ = begin;
    count_ = end - begin;
    skipped_ = begin - first;
    table_.Begin(map, first, block, top, columns);
  }

  void PoolRoi(int64_t roi) {
    const int64_t bins = call_.bins.count();
    const bool last = call_.maps.layout == Layout::kNHWC;
    const int64_t offset = roi * call_.bins.size() + begin_ * (last ? 1 : bins);
    T* pooled = static_cast<T*>(call_.pooled) + offset;
    int32_t* argmax = kArgmax ? call_.argmax + offset : nullptr;
    table_.TabulateTo(call_.rows[(roi + 1) * call_.bins.height - 1].end);
    if (last && count_ == kSide) {
      table_.PoolRoi(roi, pooled, argmax, call_.bins.channels, 0);
      return;
    }
    if (!last) {
      // Results are written all at once, to memory that is seldom near.
      PrefetchForWriting(pooled, count_ * bins * sizeof(T));
      if constexpr (kArgmax) PrefetchForWriting(argmax, count_ * bins * 4);
    }
    T* tile = static_cast<T*>(scratch_.pooled);
    table_.PoolRoi(roi, tile, scratch_.argmax, kSide, bins * kSide);
    CopyOut<T>(tile, pooled);
    if constexpr (kArgmax) CopyOut<int32_t>(scratch_.argmax, argmax);
  }

 private:
  using T = typename Compare::Storage;
  static constexpr int kSide = kSquareSide<Compare>;

  static void PrefetchForWriting(const void* data, int64_t bytes) {
    const char* begin = static_cast<const char*>(data);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 1);
  }

  template <typename Value>
  void CopyOut(const Value* tile, Value* target) const {
    const int64_t bins = call_.bins.count();
    if (call_.maps.layout == Layout::kNCHW) {
      // Of vector v, the channels [v * kSide, (v + 1) * kSide) of the table.
      for (int64_t v = skipped_ / kSide; v < kVectors; ++v) {
        const int64_t from = v * kSide < skipped_ ? skipped_ - v * kSide : 0;
        const int64_t end = skipped_ + count_ - v * kSide;
        if (end <= 0) break;
        Transpose<kSide>(tile + v * bins * kSide + from, bins,
                         (end < kSide ? end : kSide) - from, kSide,
                         target + (v * kSide + from - skipped_) * bins);
      }
      return;
    }
    for (int64_t bin = 0; bin < bins; ++bin) {
      std::memcpy(target + bin * call_.bins.channels,
                  tile + bin * kSide + skipped_, count_ * sizeof(Value));
    }
  }

  const PlannedMaxPool& call_;
  const MaxPoolScratch& scratch_;
  BlockTable<Compare, kArgmax, kVectors> table_;
  int64_t begin_ = 0, count_ = 0, skipped_ = 0;
};

// One table for all RoIs of the unit. They come by their last rows, which are
// tabulated just before and still in a near cache.
template <class Compare, bool kArgmax, int kVectors>
void PoolFromSharedTableOf(const PlannedMaxPool& call, const MaxPoolUnit& unit,
                           const MaxPoolScratch& scratch) {
  TablePooling<Compare, kArgmax, kVectors> pooling(call, scratch);
  pooling.BeginTable(unit.map, unit.channel_begin, unit.channel_end, unit.block,
                     unit.top, unit.columns);
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    pooling.PoolRoi(call.order[i]);
  }
}

template <class Compare, bool kArgmax>
void PoolFromSharedTable(const PlannedMaxPool& call, const MaxPoolUnit& unit,
                         const MaxPoolScratch& scratch) {
  if (unit.channel_end - unit.channel_begin > kSquareSide<Compare>) {
    PoolFromSharedTableOf<Compare, kArgmax, kTableVectors>(call, unit, scratch);
  } else {
    PoolFromSharedTableOf<Compare, kArgmax, 1>(call, unit, scratch);
  }
}

// One table, of the RoI's own cells, for each.
template <class Compare, bool kArgmax, int kVectors>
void PoolFromOwnTable(const PlannedMaxPool& call, int64_t roi,
                      int64_t channel_begin, int64_t channel_end,
                      const MaxPoolScratch& scratch) {
  TablePooling<Compare, kArgmax, kVectors> pooling(call, scratch);
  // Bins ascend, and empty ones lie at the ends of the map.
  const Range* rows = call.rows + roi * call.bins.height;
  const Range* columns = call.columns + roi * call.bins.width;
  const Range across{columns[0].begin, columns[call.bins.width - 1].end};
  pooling.BeginTable(call.map_of[roi], channel_begin, channel_end, BlockSize{},
                     rows[0].begin, across);
  pooling.PoolRoi(roi);
}

template <class Compare, bool kArgmax>
void PoolFromOwnTables(const PlannedMaxPool& call, const MaxPoolUnit& unit,
                       const MaxPoolScratch& scratch) {
  using T = typename Compare::Storage;
  constexpr int64_t kSide = kSquareSide<Compare>;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    if (call.map_of[roi] < 0) {
      const int64_t offset = roi * call.bins.size();
      FillEmpty(call.bins.size(), sizeof(T),
                static_cast<T*>(call.pooled) + offset,
                kArgmax ? call.argmax + offset : nullptr);
      continue;
    }
    for (int64_t begin = 0; begin < call.maps.channels;
         begin += kTableVectors * kSide) {
      const int64_t left = call.maps.channels - begin;
      if (left > kSide) {
        const int64_t most = kTableVectors * kSide;
        PoolFromOwnTable<Compare, kArgmax, kTableVectors>(
            call, roi, begin, begin + (left < most ? left : most), scratch);
      } else {
        PoolFromOwnTable<Compare, kArgmax, 1>(call, roi, begin, begin + left,
                                              scratch);
      }
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_POOL_FROM_TABLES_H_
