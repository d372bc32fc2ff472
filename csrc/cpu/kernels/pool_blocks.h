// Pooling from tables of block maxima, in either layout.
//
// For a few channels of a region of one map the maxima of all blocks of
// 2^a x 2^b cells are tabulated, each at its upper left cell, by doubling: a +
// b passes. A bin is then the maximum of the blocks that cover it: four
// look-ups for a bin of up to twice a block's height and width, however many
// cells it has. A table of 1x1 blocks is the region itself, packed, which is
// what NCHW needs anyway: its channels lie a plane apart.
//
// Blocks overlap where the last of a row or of a column is flush with the end
// of the bin. That changes no maximum; which of equals is the first is told by
// their indices.

#ifndef JAX_ROIPOOL_CSRC_CPU_KERNELS_POOL_BLOCKS_H_
#define JAX_ROIPOOL_CSRC_CPU_KERNELS_POOL_BLOCKS_H_

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/kernels/orders.h"
#include "cpu/kernels/planes.h"
#include "cpu/kernels/vectors.h"
#include "geometry.h"
#include "problem.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET {
namespace {

// A cell has kVectors vectors of channels; more than one are for tables of
// single cells, in NCHW, where there are no indices beside them.
template <class Order, bool kArgmax, int kVectors>
class BlockTable {
 public:
  static constexpr int kSide = kSquareSide<Order>;
  static constexpr int kChannels = kVectors * kSide;

  BlockTable(const Call& call, const Scratch& scratch)
      : call_(call),
        keys_(static_cast<Key*>(scratch.keys)),
        indices_(static_cast<Index*>(scratch.indices)) {
    const Problem& problem = call.problem;
    for (auto& planes : planes_) {
      planes.end = static_cast<const T*>(call.map) +
                   problem.groups * problem.images * problem.map_size();
      planes.width = problem.width;
    }
  }

  // Begins a table of `block`s, of `columns` and of the rows from `top` on.
  void Begin(int64_t map, int64_t channel, BlockSize block, int64_t top,
             Range columns) {
    const Problem& problem = call_.problem;
    const T* first =
        static_cast<const T*>(call_.map) + map * problem.map_size();
    if (problem.layout == Layout::kNHWC) {
      first_channel_ = first + channel;
    } else {
      const int64_t most = problem.channels - channel - 1;
      for (int64_t i = 0; i < kChannels; ++i) {
        planes_[i / kSide].first[i % kSide] =
            first + (channel + (i < most ? i : most)) * problem.cells();
      }
    }
    block_ = block;
    columns_ = columns;
    width_ = columns.end - columns.begin;
    top_ = bottom_ = top;
    has_nan_ = false;
  }

  // Goes on to row `bottom`: each row as it comes, doubled along itself while
  // it lies in the nearest cache, then the rows above that have now seen all
  // they need.
  void TabulateTo(int64_t bottom) {
    for (; bottom_ < bottom; ++bottom_) {
      const int64_t row = bottom_ - top_;
      const int64_t first = row * width_;
      LoadRow(bottom_, keys_ + first * kChannels);
      NoteNaNs(first);
      if constexpr (kVectors == 1) DoubleRow(row);
    }
  }

  // All bins of a RoI, kSide channels each, `stride` elements apart; the next
  // vector's stand `vector_stride` elements on.
  void PoolRoi(int64_t roi, typename Order::Storage* pooled, int32_t* argmax,
               int64_t stride, int64_t vector_stride) const {
    const Problem& problem = call_.problem;
    const Range* rows = call_.rows + roi * problem.pooled_height;
    const Range* columns = call_.columns + roi * problem.pooled_width;
    const bool single_cells = block_.height * block_.width == 1;
    for (int64_t ph = 0; ph < problem.pooled_height; ++ph) {
      for (int64_t pw = 0; pw < problem.pooled_width; ++pw) {
        if (rows[ph].end <= rows[ph].begin ||
            columns[pw].end <= columns[pw].begin) {
          for (int v = 0; v < kVectors; ++v) {
            Store(Vector<T, kSide>{}, pooled + v * vector_stride);
            if constexpr (kArgmax) {
              Store(Vector<int32_t, kSide>{} - 1, argmax + v * vector_stride);
            }
          }
        } else if (Order::kHasNaN && has_nan_) {
          PoolBin<Order::kHasNaN>(rows[ph], columns[pw], single_cells, pooled,
                                  argmax, vector_stride);
        } else {
          PoolBin<false>(rows[ph], columns[pw], single_cells, pooled, argmax,
                         vector_stride);
        }
        pooled += stride;
        if constexpr (kArgmax) argmax += stride;
      }
    }
  }

 private:
  using T = typename Order::Storage;
  using Key = typename Order::Key;
  using Index = typename Order::Index;
  using Keys = Vector<Key, kSide>;
  using Indices = Vector<Index, kSide>;

  Keys KeysAt(int64_t cell, int vector = 0) const {
    return Load<Keys>(keys_ + cell * kChannels + vector * kSide);
  }
  Indices IndicesAt(int64_t cell) const {
    if constexpr (!kArgmax) return Indices{};
    return Load<Indices>(indices_ + cell * kSide);
  }
  // Of single cells the index is known without.
  bool HasIndices() const {
    return kArgmax && block_.height * block_.width > 1;
  }
  Indices IndexOf(int64_t row, int64_t column) const {
    return Indices{} + static_cast<Index>(row * call_.problem.width + column);
  }

  void LoadRow(int64_t row, Key* target) const {
    const Problem& problem = call_.problem;
    if (problem.layout == Layout::kNCHW) {
      for (int v = 0; v < kVectors; ++v) {
        PackRow<Order, kChannels>(planes_[v], row, columns_,
                                  target + v * kSide);
      }
      return;
    }
    const T* source = first_channel_ +
                      (row * problem.width + columns_.begin) * problem.channels;
    for (int64_t i = 0; i < width_; ++i, source += problem.channels) {
      Store(Order::template LoadKeys<kSide>(source), target + i * kSide);
    }
  }

  // A table seldom has NaNs, and searches are shorter then.
  void NoteNaNs(int64_t first) {
    if constexpr (Order::kHasNaN) {
      decltype(Keys{} != Keys{}) nan{};
      for (int64_t i = 0; i < width_; ++i) {
        for (int v = 0; v < kVectors; ++v) {
          const Keys keys = KeysAt(first + i, v);
          nan |= keys != keys;
        }
      }
      for (int lane = 0; lane < kSide; ++lane) has_nan_ |= nan[lane] != 0;
    }
  }

  // Doubles a new row's blocks, then those above that reach down to it.
  void DoubleRow(int64_t row) {
    const int64_t first = row * width_;
    if (HasIndices()) {
      for (int64_t i = 0; i < width_; ++i) {
        Store(IndexOf(top_ + row, columns_.begin + i),
              indices_ + (first + i) * kSide);
      }
    }
    for (int64_t step = 1; step < block_.width; step *= 2) {
      Double(first, first + step, width_ - step);
    }
    for (int64_t step = 1; step < block_.height; step *= 2) {
      const int64_t upper = row - (2 * step - 1);
      if (upper < 0) break;
      Double(upper * width_, (upper + step) * width_, width_);
    }
  }

  // Cell becomes the better of itself and other, for `count` cells from each
  // on. All of cell's block comes before all of other's.
  void Double(int64_t cell, int64_t other, int64_t count) {
    if (Order::kHasNaN && has_nan_) {
      DoubleAs<Order::kHasNaN>(cell, other, count);
    } else {
      DoubleAs<false>(cell, other, count);
    }
  }
  template <bool kNaN>
  void DoubleAs(int64_t cell, int64_t other, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Search<Order, kArgmax, kSide, kNaN> search;
      search.Start(KeysAt(cell + i), IndicesAt(cell + i));
      search.See(KeysAt(other + i), IndicesAt(other + i));
      Store(search.Best(), keys_ + (cell + i) * kSide);
      if constexpr (kArgmax) Store(search.index, indices_ + (cell + i) * kSide);
    }
  }

  // One bin, at least as high and wide as a block.
  template <bool kNaN>
  void PoolBin(Range rows, Range columns, bool single_cells, T* pooled,
               int32_t* argmax, int64_t vector_stride) const {
    Search<Order, kArgmax, kSide, kNaN> search[kVectors];
    if (kVectors > 1 || single_cells) {
      SearchCells(rows, columns, search);
    } else {
      SearchBlocks(rows, columns, search);
    }
    for (int v = 0; v < kVectors; ++v) {
      Order::template StoreKeys<kSide>(search[v].Best(),
                                       pooled + v * vector_stride);
      if constexpr (kArgmax) {
        Store(__builtin_convertvector(search[v].index, Vector<int32_t, kSide>),
              argmax + v * vector_stride);
      }
    }
  }

  template <class AnySearch>
  void SearchCells(Range rows, Range columns, AnySearch* search) const {
    int64_t cell =
        (rows.begin - top_) * width_ + columns.begin - columns_.begin;
    const Indices first = IndexOf(rows.begin, columns.begin);
    for (int v = 0; v < kVectors; ++v) search[v].Start(KeysAt(cell, v), first);
    int64_t column = columns.begin + 1;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      cell = (row - top_) * width_ + column - columns_.begin;
      for (; column < columns.end; ++column, ++cell) {
        const Indices index = IndexOf(row, column);
        for (int v = 0; v < kVectors; ++v) {
          search[v].See(KeysAt(cell, v), index);
        }
      }
      column = columns.begin;
    }
  }

  template <class AnySearch>
  void SearchBlocks(Range rows, Range columns, AnySearch* search) const {
    const int64_t left = columns.begin - columns_.begin;
    int64_t cell = (rows.begin - top_) * width_ + left;
    search->Start(KeysAt(cell), IndicesAt(cell));
    const int64_t last_row = rows.end - top_ - block_.height;
    const int64_t last_column = columns.end - columns_.begin - block_.width;
    for (int64_t row = rows.begin - top_;; row += block_.height) {
      if (row > last_row) row = last_row;
      for (int64_t column = left;; column += block_.width) {
        if (column > last_column) column = last_column;
        cell = row * width_ + column;
        search->SeeAgain(KeysAt(cell), IndicesAt(cell));
        if (column == last_column) break;
      }
      if (row == last_row) break;
    }
  }

  const Call& call_;
  Key* const keys_;  // [rows][columns][kChannels], and so the indices
  Index* const indices_;
  const T* first_channel_ = nullptr;   // NHWC
  Planes<T, kSide> planes_[kVectors];  // NCHW
  BlockSize block_{};
  Range columns_{};
  int64_t width_ = 0;
  int64_t top_ = 0, bottom_ = 0;  // rows tabulated
  bool has_nan_ = false;
};

// Channels [begin, end), kVectors vectors at most, of RoIs.
template <class Order, bool kArgmax, int kVectors>
class TablePooling {
 public:
  TablePooling(const Call& call, const Scratch& scratch)
      : call_(call), scratch_(scratch), table_(call, scratch) {}

  void BeginTable(int64_t map, int64_t begin, int64_t end, BlockSize block,
                  int64_t top, Range columns) {
    // A table has a full vector of channels: where too few are left, some of
    // those before are in it and not in the results.
    const int64_t flush = call_.problem.channels - kVectors * kSide;
    const int64_t first = begin < flush ? begin : flush < 0 ? 0 : flush;
    begin_ = begin;
    count_ = end - begin;
    skipped_ = begin - first;
    table_.Begin(map, first, block, top, columns);
  }

  void PoolRoi(int64_t roi) {
    const Problem& problem = call_.problem;
    const int64_t bins = problem.bins();
    const bool last = problem.layout == Layout::kNHWC;
    const int64_t offset =
        roi * problem.pooled_size() + begin_ * (last ? 1 : bins);
    T* pooled = static_cast<T*>(call_.pooled) + offset;
    int32_t* argmax = kArgmax ? call_.argmax_out + offset : nullptr;
    table_.TabulateTo(call_.rows[(roi + 1) * problem.pooled_height - 1].end);
    if (last && count_ == kSide) {
      table_.PoolRoi(roi, pooled, argmax, problem.channels, 0);
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
  using T = typename Order::Storage;
  static constexpr int kSide = kSquareSide<Order>;

  static void PrefetchForWriting(const void* data, int64_t bytes) {
    const char* begin = static_cast<const char*>(data);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 1);
  }

  template <typename Value>
  void CopyOut(const Value* tile, Value* target) const {
    const Problem& problem = call_.problem;
    if (problem.layout == Layout::kNCHW) {
      // Of vector v, the channels [v * kSide, (v + 1) * kSide) of the table.
      for (int64_t v = skipped_ / kSide; v < kVectors; ++v) {
        const int64_t from = v * kSide < skipped_ ? skipped_ - v * kSide : 0;
        const int64_t end = skipped_ + count_ - v * kSide;
        if (end <= 0) break;
        Transpose<kSide>(
            tile + v * problem.bins() * kSide + from, problem.bins(),
            (end < kSide ? end : kSide) - from, kSide,
            target + (v * kSide + from - skipped_) * problem.bins());
      }
      return;
    }
    for (int64_t bin = 0; bin < problem.bins(); ++bin) {
      std::memcpy(target + bin * problem.channels,
                  tile + bin * kSide + skipped_, count_ * sizeof(Value));
    }
  }

  const Call& call_;
  const Scratch& scratch_;
  BlockTable<Order, kArgmax, kVectors> table_;
  int64_t begin_ = 0, count_ = 0, skipped_ = 0;
};

// One table for all RoIs of the unit. They come by their last rows, which are
// tabulated just before and still in a near cache.
template <class Order, bool kArgmax, int kVectors>
void PoolFromSharedTableOf(const Call& call, const Unit& unit,
                           const Scratch& scratch) {
  TablePooling<Order, kArgmax, kVectors> pooling(call, scratch);
  pooling.BeginTable(unit.map, unit.channel_begin, unit.channel_end, unit.block,
                     unit.top, unit.columns);
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    pooling.PoolRoi(call.order[i]);
  }
}

template <class Order, bool kArgmax>
void PoolFromSharedTable(const Call& call, const Unit& unit,
                         const Scratch& scratch) {
  if (unit.channel_end - unit.channel_begin > kSquareSide<Order>) {
    PoolFromSharedTableOf<Order, kArgmax, kTableVectors>(call, unit, scratch);
  } else {
    PoolFromSharedTableOf<Order, kArgmax, 1>(call, unit, scratch);
  }
}

// One table, of the RoI's own cells, for each.
template <class Order, bool kArgmax, int kVectors>
void PoolFromOwnTable(const Call& call, int64_t roi, int64_t channel_begin,
                      int64_t channel_end, const Scratch& scratch) {
  const Problem& problem = call.problem;
  TablePooling<Order, kArgmax, kVectors> pooling(call, scratch);
  // Bins ascend, and empty ones lie at the ends of the map.
  const Range* rows = call.rows + roi * problem.pooled_height;
  const Range* columns = call.columns + roi * problem.pooled_width;
  const Range across{columns[0].begin, columns[problem.pooled_width - 1].end};
  pooling.BeginTable(call.map_of[roi], channel_begin, channel_end, BlockSize{},
                     rows[0].begin, across);
  pooling.PoolRoi(roi);
}

template <class Order, bool kArgmax>
void PoolFromOwnTables(const Call& call, const Unit& unit,
                       const Scratch& scratch) {
  using T = typename Order::Storage;
  constexpr int64_t kSide = kSquareSide<Order>;
  const Problem& problem = call.problem;
  for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
    const int64_t roi = call.order[i];
    if (call.map_of[roi] < 0) {
      const int64_t offset = roi * problem.pooled_size();
      FillEmpty(problem.pooled_size(), sizeof(T),
                static_cast<T*>(call.pooled) + offset,
                kArgmax ? call.argmax_out + offset : nullptr);
      continue;
    }
    for (int64_t begin = 0; begin < problem.channels;
         begin += kTableVectors * kSide) {
      const int64_t left = problem.channels - begin;
      if (left > kSide) {
        const int64_t most = kTableVectors * kSide;
        PoolFromOwnTable<Order, kArgmax, kTableVectors>(
            call, roi, begin, begin + (left < most ? left : most), scratch);
      } else {
        PoolFromOwnTable<Order, kArgmax, 1>(call, roi, begin, begin + left,
                                            scratch);
      }
    }
  }
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_TARGET

#endif  // JAX_ROIPOOL_CSRC_CPU_KERNELS_POOL_BLOCKS_H_
