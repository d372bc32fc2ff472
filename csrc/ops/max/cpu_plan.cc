#include "ops/max/cpu_plan.h"

#include <algorithm>
#include <utility>

#include "core/boxes.h"
#include "core/caffe_bins.h"
#include "cpu/squares.h"
#include "cpu/work.h"
#include "ops/max/cpu_tables.h"

namespace jax_roipool::cpu {
namespace {

// Cells that are read while a bin is written, to memory that is mostly fresh.
// An empty RoI's bins cost that too.
constexpr double kCellsPerBin = 8;

int64_t Area(const Range* rows, int64_t num_rows, const Range* columns,
             int64_t num_columns) {
  int64_t height = 0, width = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    height += std::max(rows[i].end - rows[i].begin, 0);
  }
  for (int64_t i = 0; i < num_columns; ++i) {
    width += std::max(columns[i].end - columns[i].begin, 0);
  }
  return height * width;
}

// Fills rows and columns.
void MakeBinRanges(const MaxPoolCall& call, MaxPoolPlan* plan) {
  plan->rows.resize(call.rois.count() * call.bins.height);
  plan->columns.resize(call.rois.count() * call.bins.width);
  for (int64_t roi = 0; roi < call.rois.count(); ++roi) {
    if (plan->map_of[roi] < 0) continue;
    const int64_t at = PlaceOf(call.maps, plan->map_of[roi]).level;
    const Level& level = call.maps.levels[at];
    const BinAxes axes =
        MakeBinAxes(LoadBox(call.boxes, roi), call.scales[at], call.bins);
    Range* rows = plan->rows.data() + roi * call.bins.height;
    Range* columns = plan->columns.data() + roi * call.bins.width;
    for (int64_t bin = 0; bin < call.bins.height; ++bin) {
      rows[bin] = BinRange(axes.vertical, bin, level.height);
    }
    for (int64_t bin = 0; bin < call.bins.width; ++bin) {
      columns[bin] = BinRange(axes.horizontal, bin, level.width);
    }
  }
}

// The rows, and the columns, from a RoI's first bin to its last. Bins ascend,
// and empty ones lie at the ends of the map.
Range RowsOf(const PlannedMaxPool& call, int64_t roi) {
  const Range* rows = call.rows + roi * call.bins.height;
  return {rows[0].begin, rows[call.bins.height - 1].end};
}
Range ColumnsOf(const PlannedMaxPool& call, int64_t roi) {
  const Range* columns = call.columns + roi * call.bins.width;
  return {columns[0].begin, columns[call.bins.width - 1].end};
}

// Units that share `table`: one for each block of `side` channels, or several
// of fewer RoIs where those are too few to make `parts`. Their RoIs are
// appended to `order` as such units want them, by their last rows.
void AddTable(const PlannedMaxPool& call, const SharedTable& table, int64_t map,
              int64_t side, int64_t parts, std::vector<int64_t>* order,
              std::vector<MaxPoolUnit>* units) {
  std::vector<int64_t> rois = table.rois;
  std::sort(rois.begin(), rois.end(), [&](int64_t a, int64_t b) {
    return std::pair(RowsOf(call, a).end, a) <
           std::pair(RowsOf(call, b).end, b);
  });
  const int64_t first = static_cast<int64_t>(order->size());
  const int64_t count = static_cast<int64_t>(rois.size());
  order->insert(order->end(), rois.begin(), rois.end());

  const int64_t channels = call.maps.channels;
  if (call.maps.layout == Layout::kNCHW &&
      table.block.height * table.block.width == 1) {
    side *= kTableVectors;
  }
  // Each part makes its table anew, so it must have enough to do with it.
  const int64_t pieces = CeilDiv(channels, side);
  const int64_t cuts =
      std::clamp<int64_t>(static_cast<int64_t>(table.lookups / table.build), 1,
                          std::max<int64_t>(parts / pieces, 1));
  const Level& level = call.maps.levels[PlaceOf(call.maps, map).level];
  MaxPoolUnit unit{};
  unit.map = map;
  unit.source = CellSource::kSharedTable;
  unit.block = table.block;
  for (int64_t cut = 0; cut < cuts; ++cut) {
    unit.roi_begin = first + count * cut / cuts;
    unit.roi_end = first + count * (cut + 1) / cuts;
    unit.top = level.height;
    unit.columns = {static_cast<int32_t>(level.width), 0};
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      const Range rows = RowsOf(call, (*order)[i]);
      const Range columns = ColumnsOf(call, (*order)[i]);
      unit.top = std::min<int64_t>(unit.top, rows.begin);
      unit.columns = {std::min(unit.columns.begin, columns.begin),
                      std::max(unit.columns.end, columns.end)};
    }
    for (int64_t c = 0; c < channels; c += side) {
      unit.channel_begin = c;
      unit.channel_end = std::min(c + side, channels);
      units->push_back(unit);
    }
  }
}

// Fills the sizes of scratch memory.
void SizeScratch(const PlannedMaxPool& call, MaxPoolPlan* plan) {
  int64_t keys = 0, indices = 0;  // the most vectors in a table
  for (const MaxPoolUnit& unit : plan->units) {
    if (unit.source == CellSource::kMap) continue;
    int64_t top = unit.top, width = unit.columns.end - unit.columns.begin;
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      const int64_t roi = plan->order[i];
      if (plan->map_of[roi] < 0) continue;
      const Range rows = RowsOf(call, roi);
      if (unit.source == CellSource::kOwnTables) {
        const Range columns = ColumnsOf(call, roi);
        top = rows.begin;
        width = columns.end - columns.begin;
      }
      // Rows are written by squares, up to a side too much.
      const int64_t cells = (rows.end - top) * width + kMaxSquareSide;
      if (unit.block.height * unit.block.width > 1) {
        keys = std::max(keys, cells);
        indices = std::max(indices, cells);
      } else {
        keys = std::max(keys, cells * kTableVectors);
      }
    }
  }
  if (keys == 0) return;
  plan->keys = keys * kMaxVectorBytes;
  plan->pooled = call.bins.count() * kTableVectors * kMaxVectorBytes;
  if (call.argmax == nullptr) return;
  plan->indices = indices * kMaxVectorBytes;
  plan->argmax = plan->pooled;
}

}  // namespace

PlannedMaxPool MaxPoolPlan::Planned(const MaxPoolCall& call) const {
  return {call, order.data(), map_of.data(), rows.data(), columns.data()};
}

MaxPoolScratch MaxPoolPlan::CutScratch(ScratchCutter* cutter) const {
  return {cutter->Cut(keys), cutter->Cut(indices), cutter->Cut(pooled),
          cutter->Cut<int32_t>(argmax)};
}

MaxPoolPlan PlanMaxPool(const MaxPoolCall& call, int64_t vector_bytes,
                        int64_t threads) {
  RoisByMap by_map = SortByMap(call, call.boxes);
  MaxPoolPlan plan{};
  plan.map_of = std::move(by_map.map_of);
  MakeBinRanges(call, &plan);
  const PlannedMaxPool planned = plan.Planned(call);
  const int64_t rois = call.rois.count();
  const int64_t maps = call.maps.count_all();
  const int64_t channels = call.maps.channels;
  const int64_t parts = PartsFor(threads);

  // RoIs that tables of block maxima are worth, map by map; then the others,
  // and then the empty ones.
  const int64_t side =
      SquareSide(vector_bytes, ElementBytes(call.maps.element));
  const bool can_tabulate =
      call.maps.layout == Layout::kNCHW || channels >= side;
  std::vector<int64_t> rest;
  for (int64_t map = 0; map < maps; ++map) {
    const int64_t* of_map = by_map.order.data() + by_map.begin[map];
    const int64_t count = by_map.begin[map + 1] - by_map.begin[map];
    if (count == 0) continue;
    if (!can_tabulate) {
      rest.insert(rest.end(), of_map, of_map + count);
      continue;
    }
    for (const SharedTable& table :
         ChooseTables(planned, map, of_map, count, &rest)) {
      AddTable(planned, table, map, side, parts, &plan.order, &plan.units);
    }
  }
  const int64_t first = static_cast<int64_t>(plan.order.size());
  // As they came, whatever their maps: results are written in order, so that a
  // page is full soon after the system has cleared it.
  std::sort(rest.begin(), rest.end());
  plan.order.insert(plan.order.end(), rest.begin(), rest.end());
  plan.order.insert(plan.order.end(), by_map.order.begin() + by_map.begin[maps],
                    by_map.order.end());

  std::vector<double> cost(rois);  // of a channel
  double elements = 0;
  for (int64_t roi = 0; roi < rois; ++roi) {
    const auto bins = static_cast<double>(call.bins.count());
    double cells = 0;
    if (plan.map_of[roi] >= 0) {
      cells = static_cast<double>(
          Area(planned.rows + roi * call.bins.height, call.bins.height,
               planned.columns + roi * call.bins.width, call.bins.width));
    }
    cost[roi] = cells + kCellsPerBin * bins;
    elements += cells + bins;
  }
  if (first < rois) {
    MaxPoolUnit others{first, rois, 0, channels, CellSource::kMap};
    if (call.maps.layout == Layout::kNCHW) {
      others.source = CellSource::kOwnTables;
    }
    CutByCost(
        first, rois, parts, [&](int64_t i) { return cost[plan.order[i]]; },
        [&](int64_t begin, int64_t end) {
          others.roi_begin = begin;
          others.roi_end = end;
          plan.units.push_back(others);
        });
  }
  plan.helpers = HelpersFor(elements * static_cast<double>(channels),
                            static_cast<int64_t>(plan.units.size()), threads);
  SizeScratch(planned, &plan);
  return plan;
}

}  // namespace jax_roipool::cpu
