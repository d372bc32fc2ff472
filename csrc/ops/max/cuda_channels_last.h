// Pooling where a cell's channels lie side by side.
//
// A block has a RoI, some of its bins and some of its channels. Its threads
// stand in groups of up to a warp: a group's lanes have neighbouring vectors of
// channels, so that a cell is one wide load. Groups take bins in turn; large
// bins are shared by all groups, each with every so manieth cell, and put
// together in shared memory.

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_LAST_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_LAST_H_

#include <algorithm>
#include <cstdint>

#include "core/caffe_bins.h"
#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/work.h"
#include "ops/max/call.h"
#include "ops/max/cuda_best.h"
#include "ops/max/cuda_roi.h"
#include "ops/max/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

// How the call is cut: item = (RoI, part of its bins, part of its chunks), a
// chunk being a vector of channels for each lane.
struct ChannelsLastArguments {
  MaxPoolCall call;
  int64_t items, bin_parts, chunk_parts;
  int64_t bins_per_item, chunks_per_item;
  int lanes;  // of a group
};

template <Element kElement, bool kArgmax, int kVector>
class ChannelsLastPooling {
 public:
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;
  using BestCell = Best<Number, kArgmax>;

  __device__ explicit ChannelsLastPooling(const ChannelsLastArguments& a)
      : call_(a.call),
        bins_(a.call.bins),
        lane_(threadIdx.x % a.lanes),
        group_(threadIdx.x / a.lanes),
        groups_(kThreads / a.lanes),
        lanes_(a.lanes) {}

  __device__ void Run(const ChannelsLastArguments& a, int64_t item) {
    const Division chunks = Divide(item, a.chunk_parts);
    const Division bins = Divide(chunks.quotient, a.bin_parts);
    roi_index_ = bins.quotient;
    const int64_t bin_begin = bins.remainder * a.bins_per_item;
    const int64_t bin_end = Lesser(bin_begin + a.bins_per_item, bins_.count());
    const int64_t chunk = int64_t{lanes_} * kVector;
    const int64_t begin = chunks.remainder * a.chunks_per_item * chunk;
    const int64_t end =
        Lesser(begin + a.chunks_per_item * chunk, bins_.channels);

    roi_ = LoadRoi<T>(call_, roi_index_);
    const bool together = groups_ > 1 && !roi_.empty &&
                          HasLargeBins(level(), roi_, kSharedBinCells);
    for (int64_t bin = together ? bin_begin : bin_begin + group_; bin < bin_end;
         bin += together ? 1 : groups_) {
      FindBin(bin);
      for (int64_t first = begin; first < end; first += chunk) {
        const int64_t channel = first + int64_t{lane_} * kVector;
        if (together) {
          PoolTogether(channel, end);
        } else if (channel < end) {
          BestCell best[kVector];
          PoolPart(channel, 0, 1, best);
          StoreBin(channel, best);
        }
      }
    }
  }

 private:
  __device__ const Level& level() const {
    return call_.maps.levels[roi_.level];
  }
  __device__ static int64_t Lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
  }

  __device__ void FindBin(int64_t bin) {
    rows_ = columns_ = Range{0, 0};
    if (!roi_.empty) {
      const Division place = Divide(bin, bins_.width);
      rows_ = BinRange(roi_.axes.vertical, place.quotient, level().height);
      columns_ = BinRange(roi_.axes.horizontal, place.remainder, level().width);
    }
    width_ = columns_.end - columns_.begin;
    cells_ = width_ > 0 && rows_.end > rows_.begin
                 ? width_ * (rows_.end - rows_.begin)
                 : 0;
    target_ = (roi_index_ * bins_.count() + bin) * bins_.channels;
  }

  // Cells first, first + step, ... of the bin, counted row by row.
  __device__ void PoolPart(int64_t channel, int first, int step,
                           BestCell* best) const {
    const int map_width = static_cast<int>(level().width);
    int row = rows_.begin, column = columns_.begin;
    int row_step = 0, column_step = 1;
    if (step > 1 && cells_ > 0) {
      row += first / width_;
      column += first % width_;
      row_step = step / width_;
      column_step = step % width_;
    }
    const int32_t start = first < cells_ ? row * map_width + column : -1;
    for (int v = 0; v < kVector; ++v) best[v] = BestCell::Before(start);
    const T* map = roi_.map + channel;
    JAX_ROIPOOL_UNROLL(4)
    for (int i = first; i < cells_; i += step) {
      const int32_t cell = row * map_width + column;
      const auto numbers = LoadPack<T, kVector>(map + cell * bins_.channels);
      for (int v = 0; v < kVector; ++v) {
        best[v].See(ElementOf<kElement>::Widen(numbers.values[v]), cell);
      }
      row += row_step;
      column += column_step;
      if (column >= columns_.end) {
        column -= width_;
        ++row;
      }
    }
  }

  // All groups of the block, each a part of the cells, then two parts by two.
  __device__ void PoolTogether(int64_t channel, int64_t end) const {
    auto* shared = reinterpret_cast<BestCell*>(SharedMemory()) + threadIdx.x;
    BestCell best[kVector];
    for (int v = 0; v < kVector; ++v) best[v] = BestCell::Before(-1);
    if (channel < end) PoolPart(channel, group_, groups_, best);
    for (int v = 0; v < kVector; ++v) shared[v * kThreads] = best[v];
    __syncthreads();
    for (int half = groups_ / 2; half > 0; half /= 2) {
      if (group_ < half) {
        for (int v = 0; v < kVector; ++v) {
          best[v].Merge(shared[v * kThreads + half * lanes_]);
          shared[v * kThreads] = best[v];
        }
      }
      __syncthreads();
    }
    if (group_ == 0 && channel < end) StoreBin(channel, best);
  }

  __device__ void StoreBin(int64_t channel, const BestCell* best) const {
    Pack<T, kVector> values;
    Pack<int32_t, kVector> cells;
    for (int v = 0; v < kVector; ++v) {
      values.values[v] =
          cells_ > 0 ? ElementOf<kElement>::Round(best[v].value) : T{0};
      if (kArgmax) cells.values[v] = cells_ > 0 ? best[v].cell : -1;
    }
    StorePack(values, static_cast<T*>(call_.pooled) + target_ + channel);
    if (kArgmax) StorePack(cells, call_.argmax + target_ + channel);
  }

  const MaxPoolCall& call_;
  const Bins& bins_;
  const int lane_, group_, groups_, lanes_;
  // Of the item:
  int64_t roi_index_;
  Roi<T> roi_;
  // Of the bin:
  Range rows_, columns_;
  int width_, cells_;
  int64_t target_;  // its first channel's place in the results
};

template <Element kElement, bool kArgmax, int kVector>
__global__ void __launch_bounds__(kThreads, PoolBlocksTogether(kArgmax))
    PoolChannelsLast(const ChannelsLastArguments arguments) {
  ChannelsLastPooling<kElement, kArgmax, kVector> pooling(arguments);
  TakeTurns(arguments.items,
            [&](int64_t item) { pooling.Run(arguments, item); });
}

// Cuts the call fine enough for all multiprocessors, and no finer: what is
// found out about a RoI and a bin then serves more channels.
inline ChannelsLastArguments CutChannelsLast(const MaxPoolCall& call,
                                             const Device& device, int vector) {
  const Bins& bins = call.bins;
  ChannelsLastArguments a{};
  a.call = call;
  const int64_t vectors = CeilDiv(bins.channels, vector);
  a.lanes = 1;
  while (a.lanes < kWarp && a.lanes < vectors) a.lanes *= 2;
  const int64_t groups = kThreads / a.lanes;
  const int64_t chunks = CeilDiv(vectors, a.lanes);
  const int64_t rois = call.rois.count();
  const int64_t enough = device.multiprocessors * kBlocksPerMultiprocessor;
  const int64_t most_bin_parts = CeilDiv(bins.count(), groups);
  a.bin_parts = CeilDiv(bins.count(), groups * kBinsPerGroup);
  a.chunk_parts = 1;
  while (rois * a.bin_parts * a.chunk_parts < enough) {
    if (a.chunk_parts < chunks) {
      a.chunk_parts = std::min(2 * a.chunk_parts, chunks);
    } else if (a.bin_parts < most_bin_parts) {
      a.bin_parts = std::min(2 * a.bin_parts, most_bin_parts);
    } else {
      break;
    }
  }
  a.bins_per_item = CeilDiv(bins.count(), a.bin_parts);
  a.bin_parts = CeilDiv(bins.count(), a.bins_per_item);
  a.chunks_per_item = CeilDiv(chunks, a.chunk_parts);
  a.chunk_parts = CeilDiv(chunks, a.chunks_per_item);
  a.items = rois * a.bin_parts * a.chunk_parts;
  return a;
}

template <Element kElement, bool kArgmax, int kVector>
Status LaunchChannelsLast(const MaxPoolCall& call, const Device& device,
                          Stream stream) {
  using Pooling = ChannelsLastPooling<kElement, kArgmax, kVector>;
  const ChannelsLastArguments a = CutChannelsLast(call, device, kVector);
  return Launch(PoolChannelsLast<kElement, kArgmax, kVector>,
                BlocksFor(a.items), kThreads,
                kThreads * kVector * sizeof(typename Pooling::BestCell), stream,
                a);
}

}  // namespace
}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CUDA_CHANNELS_LAST_H_
