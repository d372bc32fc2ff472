// Tables of block maxima, of which bins are pooled in either layout.
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

#ifndef JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BLOCK_TABLE_H_
#define JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BLOCK_TABLE_H_

#include <cstdint>

#include "core/sizes.h"
#include "cpu/transposes.h"
#include "cpu/vectors.h"
#include "ops/max/cpu_kernels.h"
#include "ops/max/cpu_search.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// A cell has kVectors vectors of channels; more than one are for tables of
// single cells, in NCHW, where there are no indices beside them.
template <class Compare, bool kArgmax, int kVectors>
class BlockTable {
 public:
  static constexpr int kSide = kSquareSide<Compare>;
  static constexpr int kChannels = kVectors * kSide;

  BlockTable(const PlannedMaxPool& call, const MaxPoolScratch& scratch)
      : call_(call),
        keys_(static_cast<Key*>(scratch.keys)),
        indices_(static_cast<Index*>(scratch.indices)) {}

  // Begins a table of `block`s, of `columns` and of the rows from `top` on.
  void Begin(int64_t map, int64_t channel, BlockSize block, int64_t top,
             Range columns) {
    const Maps& maps = call_.maps;
    const MapPlace at = PlaceOf(maps, map);
    const T* first = MapData<const T>(maps, call_.features, at);
    level_ = maps.levels[at.level];
    if (maps.layout == Layout::kNHWC) {
      first_channel_ = first + channel;
    } else {
      const int64_t most = maps.channels - channel - 1;
      for (auto& planes : planes_) {
        planes.end =
            MapData<const T>(maps, call_.features, {at.level, maps.count()});
        planes.width = level_.width;
      }
      for (int64_t i = 0; i < kChannels; ++i) {
        planes_[i / kSide].first[i % kSide] =
            first + (channel + (i < most ? i : most)) * level_.cells();
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
  void PoolRoi(int64_t roi, typename Compare::Storage* pooled, int32_t* argmax,
               int64_t stride, int64_t vector_stride) const {
    const Bins& bins = call_.bins;
    const Range* rows = call_.rows + roi * bins.height;
    const Range* columns = call_.columns + roi * bins.width;
    const bool single_cells = block_.height * block_.width == 1;
    for (int64_t ph = 0; ph < bins.height; ++ph) {
      for (int64_t pw = 0; pw < bins.width; ++pw) {
        if (rows[ph].end <= rows[ph].begin ||
            columns[pw].end <= columns[pw].begin) {
          for (int v = 0; v < kVectors; ++v) {
            Store(Vector<T, kSide>{}, pooled + v * vector_stride);
            if constexpr (kArgmax) {
              Store(Vector<int32_t, kSide>{} - 1, argmax + v * vector_stride);
            }
          }
        } else if (Compare::kHasNaN && has_nan_) {
          PoolBin<Compare::kHasNaN>(rows[ph], columns[pw], single_cells, pooled,
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
  using T = typename Compare::Storage;
  using Key = typename Compare::Key;
  using Index = typename Compare::Index;
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
    return Indices{} + static_cast<Index>(row * level_.width + column);
  }

  void LoadRow(int64_t row, Key* target) const {
    if (call_.maps.layout == Layout::kNCHW) {
      for (int v = 0; v < kVectors; ++v) {
        PackRow<Compare, kChannels>(planes_[v], row, columns_,
                                    target + v * kSide);
      }
      return;
    }
    const int64_t channels = call_.maps.channels;
    const T* source =
        first_channel_ + (row * level_.width + columns_.begin) * channels;
    for (int64_t i = 0; i < width_; ++i, source += channels) {
      Store(Compare::template LoadKeys<kSide>(source), target + i * kSide);
    }
  }

  // A table seldom has NaNs, and searches are shorter then.
  void NoteNaNs(int64_t first) {
    if constexpr (Compare::kHasNaN) {
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
    if (Compare::kHasNaN && has_nan_) {
      DoubleAs<Compare::kHasNaN>(cell, other, count);
    } else {
      DoubleAs<false>(cell, other, count);
    }
  }
  template <bool kNaN>
  void DoubleAs(int64_t cell, int64_t other, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Search<Compare, kArgmax, kSide, kNaN> search;
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
    Search<Compare, kArgmax, kSide, kNaN> search[kVectors];
    if (kVectors > 1 || single_cells) {
      SearchCells(rows, columns, search);
    } else {
      SearchBlocks(rows, columns, search);
    }
    for (int v = 0; v < kVectors; ++v) {
      Compare::template StoreKeys<kSide>(search[v].Best(),
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

  const PlannedMaxPool& call_;
  Key* const keys_;  // [rows][columns][kChannels], and so the indices
  Index* const indices_;
  Level level_{};                      // of the table's map
  const T* first_channel_ = nullptr;   // NHWC
  Planes<T, kSide> planes_[kVectors];  // NCHW
  BlockSize block_{};
  Range columns_{};
  int64_t width_ = 0;
  int64_t top_ = 0, bottom_ = 0;  // rows tabulated
  bool has_nan_ = false;
};

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_MAX_CPU_BLOCK_TABLE_H_
