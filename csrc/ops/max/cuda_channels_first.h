// Pooling where each channel is a plane.
//
// A block has a RoI and some of its channels. Small bins: a thread has a bin,
// found once, and walks it on one plane after another; neighbouring threads
// have neighbouring bins, so that results are written side by side. Large bins:
// a warp's lanes have neighbouring columns and walk them down the rows of each
// row of bins, every load being a stretch of a row; the maxima of columns are
// put together in shared memory.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_FIRST_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_FIRST_H_

#include <algorithm>
#include <cstdint>

#include "core/caffe_bins.h"
#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/work.h"
#include "ops/max/call.h"
#include "ops/max/cuda_best.h"
#include "ops/max/cuda_roi.h"
#include "ops/max/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

// item = (RoI, part of its channels).
struct ChannelsFirstArguments {
  MaxPoolCall call;
  int64_t items, channel_parts, channels_per_item;
};

template <Element kElement, bool kArgmax>
class ChannelsFirstPooling {
 public:
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;
  using BestCell = Best<Number, kArgmax>;

  __device__ explicit ChannelsFirstPooling(const ChannelsFirstArguments& a)
      : call_(a.call), bins_(a.call.bins) {}

  __device__ void Run(const ChannelsFirstArguments& a, int64_t item) {
    const Division place = Divide(item, a.channel_parts);
    const int64_t roi = place.quotient;
    const int64_t first = place.remainder * a.channels_per_item;
    const int64_t left = bins_.channels - first;
    channels_ = static_cast<int>(
        left < a.channels_per_item ? left : a.channels_per_item);
    roi_ = LoadRoi<T>(call_, roi);
    const int64_t results = (roi * bins_.channels + first) * bins_.count();
    pooled_ = static_cast<T*>(call_.pooled) + results;
    if (kArgmax) argmax_ = call_.argmax + results;
    if (roi_.empty) {
      const int64_t last = channels_ * bins_.count();
      for (int64_t i = threadIdx.x; i < last; i += kThreads) StoreEmpty(i);
      return;
    }
    roi_.map = Plane(first);
    if (HasLargeBins(level(), roi_, kColumnBinCells)) {
      PoolColumns();
    } else {
      PoolBins();
    }
  }

 private:
  __device__ const Level& level() const {
    return call_.maps.levels[roi_.level];
  }
  __device__ const T* Plane(int64_t channel) const {
    return roi_.map + channel * level().cells();
  }
  __device__ void StoreEmpty(int64_t place) const {
    pooled_[place] = T{0};
    if (kArgmax) argmax_[place] = -1;
  }
  __device__ void StoreBest(int64_t place, const BestCell& best) const {
    pooled_[place] = ElementOf<kElement>::Round(best.value);
    if (kArgmax) argmax_[place] = best.cell;
  }

  __device__ void PoolBins() const {
    const int64_t bins = bins_.count();
    const int slots = bins < kThreads ? kThreads / static_cast<int>(bins) : 1;
    const int slot = slots > 1 ? threadIdx.x / static_cast<int>(bins) : 0;
    if (slot >= slots) return;
    const int map_width = static_cast<int>(level().width);
    for (int64_t bin = threadIdx.x - slot * bins; bin < bins; bin += kThreads) {
      const Division place = Divide(bin, bins_.width);
      const Range rows =
          BinRange(roi_.axes.vertical, place.quotient, level().height);
      const Range columns =
          BinRange(roi_.axes.horizontal, place.remainder, level().width);
      const bool empty = rows.end <= rows.begin || columns.end <= columns.begin;
      for (int channel = slot; channel < channels_; channel += slots) {
        const int64_t target = channel * bins + bin;
        if (empty) {
          StoreEmpty(target);
          continue;
        }
        const T* plane = Plane(channel);
        BestCell best =
            BestCell::Before(rows.begin * map_width + columns.begin);
        for (int row = rows.begin; row < rows.end; ++row) {
          JAX_ROIPOOL_UNROLL(4)
          for (int column = columns.begin; column < columns.end; ++column) {
            const int32_t cell = row * map_width + column;
            best.See(ElementOf<kElement>::Widen(plane[cell]), cell);
          }
        }
        StoreBest(target, best);
      }
    }
  }

  __device__ void PoolColumns() const {
    const Range first = BinRange(roi_.axes.horizontal, 0, level().width);
    const Range last =
        BinRange(roi_.axes.horizontal, bins_.width - 1, level().width);
    // Lanes of a warp: channels, each with that many neighbouring columns.
    int columns = 8;
    while (columns < kWarp && columns < last.end - first.begin) columns *= 2;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int channels = kWarp / columns;
    for (int channel = warp * channels; channel < channels_;
         channel += kWarps * channels) {
      for (int row = 0; row < bins_.height; row += kStagedRows) {
        for (int column = 0; column < bins_.width; column += columns) {
          PoolTile(channel + lane / columns, columns, row, column);
        }
      }
    }
  }

  // Up to kStagedRows x `width` bins of one channel, by `width` lanes. All
  // lanes of the warp are here, also those whose channel is none.
  __device__ void PoolTile(int channel, int width, int first_row,
                           int first_column) const {
    const int lane = threadIdx.x % kWarp, place = lane % width;
    auto* staged = reinterpret_cast<BestCell*>(SharedMemory()) +
                   threadIdx.x / kWarp * kStagedRows * kWarp;
    const int rows_left = static_cast<int>(bins_.height) - first_row;
    const int columns_left = static_cast<int>(bins_.width) - first_column;
    const int bin_rows = rows_left < kStagedRows ? rows_left : kStagedRows;
    const int bin_columns = columns_left < width ? columns_left : width;
    const int bins = bin_rows * bin_columns;
    const bool active = channel < channels_;
    const T* plane = Plane(channel);
    const int map_width = static_cast<int>(level().width);
    const int begin =
        BinRange(roi_.axes.horizontal, first_column, level().width).begin;
    const int end = BinRange(roi_.axes.horizontal,
                             first_column + bin_columns - 1, level().width)
                        .end;

    // This lane's bins are place, place + width, ...: at most kStagedRows.
    BestCell best[kStagedRows];
    JAX_ROIPOOL_UNROLL(kStagedRows)
    for (int i = 0; i < kStagedRows; ++i) best[i] = BestCell::Before(-1);
    for (int tile = begin; tile < end; tile += width) {
      const int column = tile + place;
      for (int i = 0; i < bin_rows; ++i) {
        const Range rows =
            BinRange(roi_.axes.vertical, first_row + i, level().height);
        BestCell down = BestCell::Before(rows.begin * map_width + column);
        if (active && column < end) {
          JAX_ROIPOOL_UNROLL(4)
          for (int row = rows.begin; row < rows.end; ++row) {
            const int32_t cell = row * map_width + column;
            down.See(ElementOf<kElement>::Widen(plane[cell]), cell);
          }
        }
        staged[i * kWarp + lane] = down;
      }
      __syncwarp();
      JAX_ROIPOOL_UNROLL(kStagedRows)
      for (int i = 0; i < kStagedRows; ++i) {
        const int bin = place + i * width;
        if (bin >= bins) break;
        const Range columns =
            BinRange(roi_.axes.horizontal, first_column + bin % bin_columns,
                     level().width);
        const int from = columns.begin > tile ? columns.begin : tile;
        const int to = columns.end < tile + width ? columns.end : tile + width;
        const BestCell* downs =
            staged + bin / bin_columns * kWarp + (lane - place) - tile;
        for (int at = from; at < to; ++at) best[i].Merge(downs[at]);
      }
      __syncwarp();
    }
    if (!active) return;
    JAX_ROIPOOL_UNROLL(kStagedRows)
    for (int i = 0; i < kStagedRows; ++i) {
      const int bin = place + i * width;
      if (bin >= bins) break;
      const int row = first_row + bin / bin_columns;
      const int column = first_column + bin % bin_columns;
      const Range rows = BinRange(roi_.axes.vertical, row, level().height);
      const Range columns =
          BinRange(roi_.axes.horizontal, column, level().width);
      const int64_t target =
          channel * bins_.count() + row * bins_.width + column;
      if (rows.end <= rows.begin || columns.end <= columns.begin) {
        StoreEmpty(target);
      } else {
        StoreBest(target, best[i]);
      }
    }
  }

  const MaxPoolCall& call_;
  const Bins& bins_;
  // Of the item:
  int channels_;
  Roi<T> roi_;
  T* pooled_;  // of the first channel, and so the map and the cells
  int32_t* argmax_;
};

template <Element kElement, bool kArgmax>
__global__ void __launch_bounds__(kThreads, PoolBlocksTogether(kArgmax))
    PoolChannelsFirst(const ChannelsFirstArguments arguments) {
  ChannelsFirstPooling<kElement, kArgmax> pooling(arguments);
  TakeTurns(arguments.items,
            [&](int64_t item) { pooling.Run(arguments, item); });
}

inline ChannelsFirstArguments CutChannelsFirst(const MaxPoolCall& call,
                                               const Device& device) {
  const Bins& bins = call.bins;
  ChannelsFirstArguments a{};
  a.call = call;
  const int64_t rois = call.rois.count();
  const int64_t enough = device.multiprocessors * kBlocksPerMultiprocessor;
  // As many channels as threads for bins, and as warps for columns.
  const int64_t least = std::max<int64_t>(kThreads / bins.count(), 1);
  a.channels_per_item =
      std::max<int64_t>(least * kChannelsPerThread, 2 * kWarps);
  while (a.channels_per_item > least &&
         rois * CeilDiv(bins.channels, a.channels_per_item) < enough) {
    a.channels_per_item = std::max(a.channels_per_item / 2, least);
  }
  a.channel_parts = CeilDiv(bins.channels, a.channels_per_item);
  a.items = rois * a.channel_parts;
  return a;
}

template <Element kElement, bool kArgmax>
Status LaunchChannelsFirst(const MaxPoolCall& call, const Device& device,
                           Stream stream) {
  using Pooling = ChannelsFirstPooling<kElement, kArgmax>;
  const ChannelsFirstArguments a = CutChannelsFirst(call, device);
  return Launch(
      PoolChannelsFirst<kElement, kArgmax>, BlocksFor(a.items), kThreads,
      kThreads * kStagedRows * sizeof(typename Pooling::BestCell), stream, a);
}

}  // namespace
}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_FIRST_H_
