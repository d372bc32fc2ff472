// The bands of one RoI as the CPU's kernels read them.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BANDS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BANDS_H_

#include <cstdint>

#include "core/sizes.h"
#include "cpu/scratch.h"
#include "ops/bands/axes.h"
#include "ops/bands/bands.h"
#include "ops/bands/calls.h"

namespace jax_roipool::cpu {

// A cell of a bin: a row of the map, or a place among the columns that the RoI
// reads.
template <typename W, int kWeights>
struct BandEntry {
  using Weight = W;
  static constexpr int kWeightCount = kWeights;

  int32_t at;
  W weights[kWeights];
};

template <typename W, int kWeights>
struct Band {
  Range* bins;  // the entries of each
  BandEntry<W, kWeights>* entries;
  int64_t capacity;  // of entries
};

// W is float or double, as features are summed.
template <typename W, int kWeights>
struct RoiBands {
  Band<W, kWeights> rows, columns;
  // Columns of the map that bins read, by rising number where the box is not
  // reversed; and for every column of `span` its place among them, or -1.
  int32_t num_columns;
  int32_t* column_of;
  Range span;
  int32_t* place_of;

  bool empty() const { return num_columns == 0; }
};

// Makes the bands of a RoI that reads a map of `level`, in memory that
// CutBands has cut.
template <typename W, int kWeights>
void FillBands(const BandsCall& call, int64_t roi, int64_t level,
               RoiBands<W, kWeights>* bands);

// Rows and columns outside of which a RoI reads nothing.
struct Reach {
  Range rows, columns;
};
Reach ReachOf(const BandsCall& call, int64_t roi, int64_t level);

// Memory for the bands of any RoI of a call.
template <typename W, int kWeights>
RoiBands<W, kWeights> CutBands(const BandsCall& call, ScratchCutter* cutter) {
  using Entry = BandEntry<W, kWeights>;
  RoiBands<W, kWeights> bands{};
  const auto cut = [&](bool rows, int64_t bins) -> Band<W, kWeights> {
    const int64_t entries = MostEntries(call, rows);
    return {cutter->Cut<Range>(bins * sizeof(Range)),
            cutter->Cut<Entry>(entries * sizeof(Entry)), entries};
  };
  bands.rows = cut(true, call.bins.height);
  bands.columns = cut(false, call.bins.width);
  int64_t width = 0;
  for (int i = 0; i < call.maps.num_levels; ++i) {
    width = std::max(width, call.maps.levels[i].width);
  }
  bands.column_of =
      cutter->Cut<int32_t>(bands.columns.capacity * sizeof(int32_t));
  bands.place_of = cutter->Cut<int32_t>(width * sizeof(int32_t));
  return bands;
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CPU_BANDS_H_
