// Adding cotangents into a map where argmax says: the same bits in every run.
//
// A block owns a few channels of a map, or of a tile of its cells where a plane
// is too large for shared memory, and adds up there: one warp per channel,
// entries in the order of (RoI, bin), a batch at a time. To each cell they are
// added in that order, one by one, as the CPU's kernel does: nothing depends on
// which thread or block comes first, nor on how a plane is cut.
//
// Channels last, a batch is loaded by all threads, eight channels side by side,
// and handed to the channels' warps through shared memory.

#include <algorithm>
#include <cstdint>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/work.h"
#include "ops/argmax/calls.h"
#include "ops/argmax/cuda.h"
#include "ops/argmax/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// How the maps of a level are cut.
struct ScatterLevel {
  int64_t items_end;  // of the items of all levels
  int64_t tiles, tile_cells;
};

// item = (level, map, part of its channels, tile of its cells).
struct ScatterArguments {
  ArgmaxScatterCall call;
  int32_t* bounds;  // two for each RoI, where a plane has several tiles
  ScatterLevel levels[kMaxLevels];
  int64_t items, channel_parts;
  int64_t tile_cells;  // of the largest tile
  bool bounded;        // whether there are bounds
};

// Places in shared memory. Strides are 4 more than a multiple of 32, so that
// threads which stand for 8 channels x 4 neighbours meet 32 different banks.
JAX_ROIPOOL_HOST_DEVICE constexpr int64_t BankStride(int64_t count) {
  return CeilDiv(count, kWarp) * kWarp + 4;
}
constexpr int kBatchStride = static_cast<int>(BankStride(kScatterBatch));

template <typename Number>
struct ScatterMemory {
  Number* planes;  // [channels][BankStride(tile_cells)]
  Number* values;  // [channels][kBatchStride], and so the cells
  int32_t* cells;
  ThreadList listed;  // RoIs, counted from the first of kThreads

  JAX_ROIPOOL_HOST_DEVICE static constexpr int64_t Bytes(int64_t tile_cells) {
    return kScatterChannels *
               ((BankStride(tile_cells) + kBatchStride) * sizeof(Number) +
                kBatchStride * sizeof(int32_t)) +
           ThreadList::kNumbers * sizeof(int32_t);
  }
  __device__ explicit ScatterMemory(int64_t tile_cells)
      : planes(reinterpret_cast<Number*>(SharedMemory())),
        values(planes + kScatterChannels * BankStride(tile_cells)),
        cells(reinterpret_cast<int32_t*>(values +
                                         kScatterChannels * kBatchStride)),
        listed(cells + kScatterChannels * kBatchStride) {}
};

template <Element kElement, bool kChannelsLast>
class Scattering {
 public:
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;

  __device__ explicit Scattering(const ScatterArguments& a)
      : a_(a),
        maps_(a.call.maps),
        per_group_(a.call.rois.per_group),
        memory_(a.tile_cells),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp) {}

  __device__ void Run(int64_t item) {
    level_ = 0;
    while (item >= a_.levels[level_].items_end) ++level_;
    if (level_ > 0) item -= a_.levels[level_ - 1].items_end;
    const ScatterLevel& level = a_.levels[level_];
    const Division tiles = Divide(item, level.tiles);
    const Division parts = Divide(tiles.quotient, a_.channel_parts);
    const int64_t map = parts.quotient;
    const Division maps = Divide(map, maps_.images);
    cells_ = maps_.levels[level_].cells();
    plane_stride_ = BankStride(level.tile_cells);
    tile_begin_ = tiles.remainder * level.tile_cells;
    tile_end_ = tile_begin_ + level.tile_cells;
    if (tile_end_ > cells_) tile_end_ = cells_;
    first_channel_ = parts.remainder * kScatterChannels;

    for (int64_t i = threadIdx.x; i < kScatterChannels * plane_stride_;
         i += kThreads) {
      memory_.planes[i] = Number{0};
    }
    __syncthreads();
    const int64_t first_roi = maps.quotient * per_group_;
    for (int64_t base = 0; base < per_group_; base += kThreads) {
      const int64_t roi = base + threadIdx.x;
      const int count = memory_.listed.Make(
          roi < per_group_ && Meets(first_roi + roi, maps.remainder));
      AddEntries(first_roi + base, count);
      __syncthreads();
    }
    StoreTile(map);
    __syncthreads();
  }

 private:
  // What a thread loads: of kScatterSteps entries, cotangent and cell in the
  // tile, -1 where it is in none.
  struct Batch {
    Number values[kScatterSteps];
    int32_t cells[kScatterSteps];
  };

  __device__ bool Meets(int64_t roi, int64_t image) const {
    if (a_.call.image_index[roi] != image) return false;
    if (a_.call.level != nullptr && a_.call.level[roi] != level_) return false;
    if (a_.levels[level_].tiles == 1) return true;
    const int32_t* bounds = a_.bounds + 2 * roi;
    return bounds[0] < tile_end_ && bounds[1] >= tile_begin_;
  }

  // Adds all bins of the RoIs in the list.
  __device__ void AddEntries(int64_t first_roi, int count) const {
    const int64_t bins = a_.call.bins.count(), entries = count * bins;
    // What this thread loads, which channels last is not what it adds.
    const int channel = kChannelsLast ? threadIdx.x % kScatterChannels : warp_;
    const int entry = kChannelsLast ? threadIdx.x / kScatterChannels : lane_;
    const bool active = first_channel_ + channel < maps_.channels;
    Division places[kScatterSteps];  // of entries: in the list, and bin
    for (int i = 0; i < kScatterSteps; ++i) {
      places[i] = Divide(entry + i * kWarp, bins);
    }
    const Division step = Divide(kScatterBatch, bins);

    const auto load = [&](int64_t first) {
      Batch batch;
      for (int i = 0; i < kScatterSteps; ++i) {
        batch.cells[i] = -1;
        batch.values[i] = Number{0};
        if (active && first + entry + i * kWarp < entries) {
          const int64_t roi =
              first_roi + memory_.listed.threads[places[i].quotient];
          const int64_t bin = places[i].remainder;
          const int64_t at =
              first_channel_ + channel;  // and then the entry's place
          const int64_t place = kChannelsLast
                                    ? (roi * bins + bin) * maps_.channels + at
                                    : (roi * maps_.channels + at) * bins + bin;
          const int64_t cell = a_.call.argmax[place];
          if (cell >= tile_begin_ && cell < tile_end_) {
            batch.cells[i] = static_cast<int32_t>(cell - tile_begin_);
          }
          batch.values[i] = ElementOf<kElement>::Widen(
              static_cast<const T*>(a_.call.cotangent)[place]);
        }
        places[i].quotient += step.quotient;
        places[i].remainder += step.remainder;
        if (places[i].remainder >= bins) {
          places[i].remainder -= bins;
          places[i].quotient += 1;
        }
      }
      return batch;
    };

    Batch next = load(0);
    for (int64_t first = 0; first < entries; first += kScatterBatch) {
      Batch batch = next;
      if (kChannelsLast) {
        const int to = channel * kBatchStride + entry;
        for (int i = 0; i < kScatterSteps; ++i) {
          memory_.values[to + i * kWarp] = batch.values[i];
          memory_.cells[to + i * kWarp] = batch.cells[i];
        }
        __syncthreads();
        const int from = warp_ * kBatchStride + lane_;
        for (int i = 0; i < kScatterSteps; ++i) {
          batch.values[i] = memory_.values[from + i * kWarp];
          batch.cells[i] = memory_.cells[from + i * kWarp];
        }
      }
      if (first + kScatterBatch < entries) next = load(first + kScatterBatch);
      Add(batch);
      if (kChannelsLast) __syncthreads();
    }
  }

  // Adds a batch to this warp's channel, one step after another. Where lanes
  // name the same cell, the lowest adds all their numbers, in their order.
  __device__ void Add(const Batch& batch) const {
    unsigned others[kScatterSteps];  // lanes that a leader has yet to add
    bool leads[kScatterSteps];
    for (int i = 0; i < kScatterSteps; ++i) {
      const int32_t cell = batch.cells[i];
      // A lane without a cell stands alone.
      const unsigned same =
          __match_any_sync(kAllLanes, cell >= 0 ? cell : -1 - lane_);
      leads[i] = cell >= 0 && (same & ((1u << lane_) - 1)) == 0;
      others[i] = leads[i] ? same & ~(1u << lane_) : 0;
    }
    Number* plane = memory_.planes + warp_ * plane_stride_;
    for (int i = 0; i < kScatterSteps; ++i) {
      Number sum = batch.values[i];
      if (leads[i]) sum += plane[batch.cells[i]];
      while (__any_sync(kAllLanes, others[i] != 0)) {
        JAX_ROIPOOL_UNROLL(kShufflesPerVote)
        for (int turn = 0; turn < kShufflesPerVote; ++turn) {
          const int from = others[i] != 0 ? __ffs(others[i]) - 1 : lane_;
          const Number value = __shfl_sync(kAllLanes, batch.values[i], from);
          if (others[i] != 0) sum += value;
          others[i] &= others[i] - 1;
        }
      }
      if (leads[i]) plane[batch.cells[i]] = sum;
      __syncwarp();
    }
  }

  __device__ void StoreTile(int64_t map) const {
    T* gradient = MapData<T>(maps_, a_.call.gradients, {level_, map});
    const int channel = kChannelsLast ? threadIdx.x % kScatterChannels : warp_;
    const int cell = kChannelsLast ? threadIdx.x / kScatterChannels : lane_;
    const int64_t to = first_channel_ + channel;
    if (to >= maps_.channels) return;
    const Number* plane = memory_.planes + channel * plane_stride_;
    for (int64_t i = cell; i < tile_end_ - tile_begin_; i += kWarp) {
      const int64_t at = tile_begin_ + i;
      gradient[kChannelsLast ? at * maps_.channels + to : to * cells_ + at] =
          ElementOf<kElement>::Round(plane[i]);
    }
  }

  const ScatterArguments& a_;
  const Maps& maps_;
  const int64_t per_group_;
  const ScatterMemory<Number> memory_;
  const int warp_, lane_;
  // Of the item:
  int level_;
  int64_t cells_, plane_stride_;
  int64_t tile_begin_, tile_end_, first_channel_;
};

template <Element kElement, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, kScatterBlocksTogether)
    ScatterCells(const ScatterArguments arguments) {
  Scattering<kElement, kChannelsLast> scattering(arguments);
  TakeTurns(arguments.items, [&](int64_t item) { scattering.Run(item); });
}

// The least and the greatest cell that a RoI's argmax names, over all channels.
__global__ void __launch_bounds__(kThreads)
    FindBounds(const ScatterArguments a) {
  const int64_t size = a.call.bins.size();
  auto* least = reinterpret_cast<int32_t*>(SharedMemory());
  int32_t* greatest = least + kThreads;
  TakeTurns(a.call.rois.count(), [&](int64_t roi) {
    const int32_t* argmax = a.call.argmax + roi * size;
    int32_t low = 0x7fffffff, high = -1;
    JAX_ROIPOOL_UNROLL(4)
    for (int64_t i = threadIdx.x; i < size; i += kThreads) {
      const int32_t cell = argmax[i];
      if (cell >= 0 && cell < low) low = cell;
      if (cell > high) high = cell;
    }
    least[threadIdx.x] = low;
    greatest[threadIdx.x] = high;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.x) < half) {
        const int other = threadIdx.x + half;
        low = least[other] < low ? least[other] : low;
        high = greatest[other] > high ? greatest[other] : high;
        least[threadIdx.x] = low;
        greatest[threadIdx.x] = high;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      a.bounds[2 * roi] = low;
      a.bounds[2 * roi + 1] = high;
    }
    __syncthreads();
  });
}

// Tiles as large as shared memory lets several blocks have together, and
// smaller ones where there would be too few blocks.
template <typename Number>
ScatterArguments CutScatter(const ArgmaxScatterCall& call, int32_t* bounds,
                            const Device& device) {
  constexpr int64_t kReserved = 1024;  // that CUDA takes of each block's share
  const int64_t budget = std::min(
      device.shared_bytes,
      device.shared_bytes_together / kScatterBlocksTogether - kReserved);
  const int64_t spare = budget - ScatterMemory<Number>::Bytes(0);
  const int64_t most =
      std::max<int64_t>(spare / (kScatterChannels * sizeof(Number)) / kWarp,
                        1) *
      kWarp;
  ScatterArguments a{};
  a.call = call;
  a.bounds = bounds;
  a.channel_parts = CeilDiv(call.maps.channels, kScatterChannels);
  const int64_t planes = call.maps.count() * a.channel_parts;
  for (int i = 0; i < call.maps.num_levels; ++i) {
    const int64_t cells = call.maps.levels[i].cells();
    ScatterLevel& level = a.levels[i];
    if (cells > 0) {
      level.tiles = CeilDiv(cells, most);
      while (planes * level.tiles < device.multiprocessors / 2 &&
             cells / (2 * level.tiles) >= kMinTileCells) {
        level.tiles *= 2;
      }
      level.tile_cells = CeilDiv(cells, level.tiles);
      level.tiles = CeilDiv(cells, level.tile_cells);
    }
    a.items += planes * level.tiles;
    level.items_end = a.items;
    a.tile_cells = std::max(a.tile_cells, level.tile_cells);
    a.bounded |= level.tiles > 1;
  }
  return a;
}

template <Element kElement>
Status ScatterAs(const ArgmaxScatterCall& call, int32_t* bounds,
                 const Device& device, Stream stream) {
  using Number = typename ElementOf<kElement>::Number;
  const ScatterArguments a = CutScatter<Number>(call, bounds, device);
  if (a.bounded) {
    const int64_t rois = call.rois.count();
    if (rois > 0) {
      const Status status = Launch(FindBounds, BlocksFor(rois), kThreads,
                                   2 * kThreads * sizeof(int32_t), stream, a);
      if (status != kSuccess) return status;
    }
  }
  const int64_t bytes = ScatterMemory<Number>::Bytes(a.tile_cells);
  const int64_t blocks = BlocksFor(a.items);
  return call.maps.layout == Layout::kNHWC
             ? Launch(ScatterCells<kElement, true>, blocks, kThreads, bytes,
                      stream, a)
             : Launch(ScatterCells<kElement, false>, blocks, kThreads, bytes,
                      stream, a);
}

}  // namespace

Status ArgmaxScatter(const ArgmaxScatterCall& call, int32_t* bounds,
                     const Device& device, Stream stream) {
  return ForElement(call.maps.element, [&](auto tag) {
    return ScatterAs<decltype(tag)::kValue>(call, bounds, device, stream);
  });
}

}  // namespace jax_roipool::cuda
