#include "cpu/plan.h"

#include <algorithm>
#include <utility>

#include "cpu/blocks.h"

namespace jax_roipool::cpu {
namespace {

// Elements read or written for which another thread is worth waking: that takes
// some 10 us, and much longer where cores are busy.
constexpr int64_t kElementsPerHelper = 256 * 1024;

// Units per thread, so that a slow one does not hold up the end.
constexpr int64_t kUnitsPerThread = 8;

// Cells that are read while a bin is written, to memory that is mostly fresh.
// An empty RoI's bins cost that too.
constexpr double kCellsPerBin = 8;

// The widest vector of any instruction set, in bytes, and the most lanes that
// kernels use of it.
constexpr int64_t kVectorBytes = 64;
constexpr int64_t kSquareSide = 16;

// What a cell has in scatter's sums: as many lines of the cache as one can have
// without the scratch memory of a thread outgrowing its use, and no power of
// two, at which cells would share a few sets of the cache.
constexpr int64_t kSumsCellBytes = 160;

// Gradients are summed in float32 or wider.
int64_t SumBytes(const Problem& problem) {
  return std::max<int64_t>(ElementBytes(problem.element), 4);
}

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

// Fills map_of, order and map_begin: a stable counting sort by map.
void GroupByMap(const Problem& problem, const float* boxes,
                const int32_t* image, Plan* plan) {
  const int64_t rois = problem.groups * problem.rois;
  const int64_t maps = problem.groups * problem.images;
  plan->map_of.resize(rois);
  plan->order.resize(rois);
  plan->map_begin.assign(maps + 2, 0);
  for (int64_t roi = 0; roi < rois; ++roi) {
    const int64_t index = image[roi];
    bool empty = index < 0 || index >= problem.images;
    for (int corner = 0; boxes != nullptr && corner < 4; ++corner) {
      empty = empty || !IsFinite(boxes[4 * roi + corner]);
    }
    const int64_t group = roi / problem.rois;
    plan->map_of[roi] = empty ? -1 : group * problem.images + index;
    plan->map_begin[(empty ? maps : plan->map_of[roi]) + 1] += 1;
  }
  for (int64_t map = 0; map <= maps; ++map) {
    plan->map_begin[map + 1] += plan->map_begin[map];
  }
  std::vector<int64_t> next(plan->map_begin.begin(), plan->map_begin.end() - 1);
  for (int64_t roi = 0; roi < rois; ++roi) {
    const int64_t map = plan->map_of[roi] < 0 ? maps : plan->map_of[roi];
    plan->order[next[map]++] = roi;
  }
}

// Cuts a unit into about `parts` of equal cost, where `cost` has a number for
// each RoI.
void CutRois(Unit whole, int64_t parts, const std::vector<int64_t>& order,
             const std::vector<double>& cost, std::vector<Unit>* units) {
  double total = 0;
  for (int64_t i = whole.roi_begin; i < whole.roi_end; ++i) {
    total += cost[order[i]];
  }
  const double share = total / static_cast<double>(parts);
  double sum = 0;
  Unit unit = whole;
  for (int64_t i = whole.roi_begin; i < whole.roi_end; ++i) {
    sum += cost[order[i]];
    if (sum >= share || i + 1 == whole.roi_end) {
      unit.roi_end = i + 1;
      units->push_back(unit);
      unit.roi_begin = i + 1;
      sum = 0;
    }
  }
}

// The rows, and the columns, from a RoI's first bin to its last. Bins ascend,
// and empty ones lie at the ends of the map.
Range RowsOf(const Problem& problem, const Plan& plan, int64_t roi) {
  const Range* rows = plan.rows.data() + roi * problem.pooled_height;
  return {rows[0].begin, rows[problem.pooled_height - 1].end};
}
Range ColumnsOf(const Problem& problem, const Plan& plan, int64_t roi) {
  const Range* columns = plan.columns.data() + roi * problem.pooled_width;
  return {columns[0].begin, columns[problem.pooled_width - 1].end};
}

// Units that share tables of `group`: one for each block of `side` channels,
// or several of fewer RoIs where those are too few to make `parts`. Their RoIs
// are appended to `order` as such units want them, by their last rows.
void AddTable(const Problem& problem, const Plan& plan, const BlockGroup& group,
              int64_t map, int64_t side, int64_t parts,
              std::vector<int64_t>* order, std::vector<Unit>* units) {
  std::vector<int64_t> rois = group.rois;
  std::sort(rois.begin(), rois.end(), [&](int64_t a, int64_t b) {
    return std::pair(RowsOf(problem, plan, a).end, a) <
           std::pair(RowsOf(problem, plan, b).end, b);
  });
  const int64_t first = static_cast<int64_t>(order->size());
  const int64_t count = static_cast<int64_t>(rois.size());
  order->insert(order->end(), rois.begin(), rois.end());

  if (problem.layout == Layout::kNCHW &&
      group.block.height * group.block.width == 1) {
    side *= kTableVectors;
  }
  // Each part makes its table anew, so it must have enough to do with it.
  const int64_t blocks = CeilDiv(problem.channels, side);
  const int64_t cuts =
      std::clamp<int64_t>(static_cast<int64_t>(group.lookups / group.build), 1,
                          std::max<int64_t>(parts / blocks, 1));
  Unit unit{};
  unit.map = map;
  unit.source = Source::kSharedTable;
  unit.block = group.block;
  for (int64_t cut = 0; cut < cuts; ++cut) {
    unit.roi_begin = first + count * cut / cuts;
    unit.roi_end = first + count * (cut + 1) / cuts;
    unit.top = problem.height;
    unit.columns = {static_cast<int32_t>(problem.width), 0};
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      const Range rows = RowsOf(problem, plan, (*order)[i]);
      const Range columns = ColumnsOf(problem, plan, (*order)[i]);
      unit.top = std::min<int64_t>(unit.top, rows.begin);
      unit.columns = {std::min(unit.columns.begin, columns.begin),
                      std::max(unit.columns.end, columns.end)};
    }
    for (int64_t c = 0; c < problem.channels; c += side) {
      unit.channel_begin = c;
      unit.channel_end = std::min(c + side, problem.channels);
      units->push_back(unit);
    }
  }
}

void SetHelpers(double elements, int64_t threads, Plan* plan) {
  const double worth = elements / kElementsPerHelper;
  const int64_t most = std::min<int64_t>(
      threads - 1, static_cast<int64_t>(plan->units.size()) - 1);
  plan->helpers = std::max<int64_t>(0, worth < static_cast<double>(most)
                                           ? static_cast<int64_t>(worth)
                                           : most);
}

// Fills rows and columns.
void MakeBins(const Problem& problem, Scale scale, const float* boxes,
              Plan* plan) {
  const int64_t rois = problem.groups * problem.rois;
  plan->rows.resize(rois * problem.pooled_height);
  plan->columns.resize(rois * problem.pooled_width);
  for (int64_t roi = 0; roi < rois; ++roi) {
    if (plan->map_of[roi] < 0) continue;
    const float* box = boxes + 4 * roi;  // x1, y1, x2, y2
    const BinAxis vertical =
        MakeBinAxis(box[1], box[3], scale.height, problem.pooled_height);
    const BinAxis horizontal =
        MakeBinAxis(box[0], box[2], scale.width, problem.pooled_width);
    Range* rows = plan->rows.data() + roi * problem.pooled_height;
    Range* columns = plan->columns.data() + roi * problem.pooled_width;
    for (int64_t bin = 0; bin < problem.pooled_height; ++bin) {
      rows[bin] = BinRange(vertical, bin, problem.height);
    }
    for (int64_t bin = 0; bin < problem.pooled_width; ++bin) {
      columns[bin] = BinRange(horizontal, bin, problem.width);
    }
  }
}

}  // namespace

Plan PlanPool(const Problem& problem, Scale scale, const float* boxes,
              const int32_t* image, bool argmax, int64_t vector_bytes,
              int64_t threads) {
  Plan plan;
  GroupByMap(problem, boxes, image, &plan);
  MakeBins(problem, scale, boxes, &plan);
  const int64_t rois = problem.groups * problem.rois;
  const int64_t maps = problem.groups * problem.images;
  const int64_t parts = threads > 1 ? threads * kUnitsPerThread : 1;

  // RoIs that tables of block maxima are worth, map by map; then the others,
  // and then the empty ones.
  const int64_t side = SquareSide(vector_bytes, ElementBytes(problem.element));
  const bool can_tabulate =
      problem.layout == Layout::kNCHW || problem.channels >= side;
  std::vector<int64_t> order, rest;
  for (int64_t map = 0; map < maps; ++map) {
    const int64_t* of_map = plan.order.data() + plan.map_begin[map];
    const int64_t count = plan.map_begin[map + 1] - plan.map_begin[map];
    if (count == 0) continue;
    if (!can_tabulate) {
      rest.insert(rest.end(), of_map, of_map + count);
      continue;
    }
    for (const BlockGroup& group :
         ChooseBlocks(problem, plan.rows.data(), plan.columns.data(), of_map,
                      count, argmax, &rest)) {
      AddTable(problem, plan, group, map, side, parts, &order, &plan.units);
    }
  }
  const int64_t first = static_cast<int64_t>(order.size());
  // As they came, whatever their maps: results are written in order, so that a
  // page is full soon after the system has cleared it.
  std::sort(rest.begin(), rest.end());
  order.insert(order.end(), rest.begin(), rest.end());
  order.insert(order.end(), plan.order.begin() + plan.map_begin[maps],
               plan.order.end());
  plan.order = std::move(order);

  std::vector<double> cost(rois);  // of a channel
  double elements = 0;
  for (int64_t roi = 0; roi < rois; ++roi) {
    const auto bins = static_cast<double>(problem.bins());
    double cells = 0;
    if (plan.map_of[roi] >= 0) {
      cells = static_cast<double>(Area(
          plan.rows.data() + roi * problem.pooled_height, problem.pooled_height,
          plan.columns.data() + roi * problem.pooled_width,
          problem.pooled_width));
    }
    cost[roi] = cells + kCellsPerBin * bins;
    elements += cells + bins;
  }
  if (first < rois) {
    Unit others{first, rois, 0, problem.channels};
    others.source =
        problem.layout == Layout::kNHWC ? Source::kMap : Source::kOwnTables;
    CutRois(others, parts, plan.order, cost, &plan.units);
  }
  SetHelpers(elements * static_cast<double>(problem.channels), threads, &plan);

  for (const Unit& unit : plan.units) {
    if (unit.source == Source::kMap) continue;
    int64_t top = unit.top, width = unit.columns.end - unit.columns.begin;
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      const int64_t roi = plan.order[i];
      if (plan.map_of[roi] < 0) continue;
      const Range rows = RowsOf(problem, plan, roi);
      if (unit.source == Source::kOwnTables) {
        const Range columns = ColumnsOf(problem, plan, roi);
        top = rows.begin;
        width = columns.end - columns.begin;
      }
      // Rows are written by squares, up to a side too much.
      const int64_t cells = (rows.end - top) * width + kSquareSide;
      if (unit.block.height * unit.block.width > 1) {
        plan.table_keys = std::max(plan.table_keys, cells);
        plan.table_indices = std::max(plan.table_indices, cells);
      } else {
        plan.table_keys = std::max(plan.table_keys, cells * kTableVectors);
      }
    }
  }
  return plan;
}

Plan PlanGather(const Problem& problem, const int32_t* image, int64_t threads) {
  Plan plan;
  GroupByMap(problem, nullptr, image, &plan);
  const int64_t rois = problem.groups * problem.rois;
  CutRois(Unit{0, rois, 0, problem.channels},
          threads > 1 ? threads * kUnitsPerThread : 1, plan.order,
          std::vector<double>(rois, 1.0), &plan.units);
  SetHelpers(
      static_cast<double>(rois) * static_cast<double>(problem.pooled_size()),
      threads, &plan);
  return plan;
}

Plan PlanScatter(const Problem& problem, const int32_t* image,
                 int64_t threads) {
  Plan plan;
  GroupByMap(problem, nullptr, image, &plan);
  const int64_t maps = problem.groups * problem.images;
  const int64_t rois = problem.groups * problem.rois;
  plan.unit_channels =
      std::min(problem.channels, kSumsCellBytes / SumBytes(problem));
  for (int64_t map = 0; map < maps; ++map) {
    for (int64_t c = 0; c < problem.channels; c += plan.unit_channels) {
      plan.units.push_back({plan.map_begin[map], plan.map_begin[map + 1], c,
                            std::min(c + plan.unit_channels, problem.channels),
                            map});
    }
  }
  SetHelpers(
      static_cast<double>(rois) * static_cast<double>(problem.pooled_size()) +
          static_cast<double>(maps) * static_cast<double>(problem.map_size()),
      threads, &plan);
  return plan;
}

namespace {

// Bytes of the pieces of a Scratch, each a multiple of a cache line.
struct Pieces {
  int64_t sums = 0, keys = 0, indices = 0, pooled = 0, argmax = 0;
};

int64_t Aligned(int64_t bytes) { return CeilDiv(bytes, 64) * 64; }

Pieces PiecesOf(const Problem& problem, const Plan& plan, ScratchUse use) {
  Pieces pieces;
  if (use == ScratchUse::kScatter) {
    if (problem.layout == Layout::kNHWC || ElementBytes(problem.element) < 4) {
      pieces.sums =
          Aligned(problem.cells() * plan.unit_channels * SumBytes(problem));
    }
  } else if (use != ScratchUse::kNone) {
    if (plan.table_keys > 0) {
      pieces.keys = plan.table_keys * kVectorBytes;
      pieces.pooled = problem.bins() * kTableVectors * kVectorBytes;
    }
    if (use == ScratchUse::kPoolArgmax) {
      pieces.indices = plan.table_indices * kVectorBytes;
      pieces.argmax = pieces.pooled;
    }
  }
  return pieces;
}

}  // namespace

int64_t ScratchBytes(const Problem& problem, const Plan& plan, ScratchUse use) {
  const Pieces pieces = PiecesOf(problem, plan, use);
  return pieces.sums + pieces.keys + pieces.indices + pieces.pooled +
         pieces.argmax;
}

Scratch MakeScratch(const Problem& problem, const Plan& plan, ScratchUse use,
                    void* block) {
  const Pieces pieces = PiecesOf(problem, plan, use);
  auto* next = static_cast<unsigned char*>(block);
  const auto cut = [&next](int64_t bytes) -> void* {
    unsigned char* piece = bytes > 0 ? next : nullptr;
    next += bytes;
    return piece;
  };
  Scratch scratch;
  scratch.sums = cut(pieces.sums);
  scratch.keys = cut(pieces.keys);
  scratch.indices = cut(pieces.indices);
  scratch.pooled = cut(pieces.pooled);
  scratch.argmax = static_cast<int32_t*>(cut(pieces.argmax));
  return scratch;
}

}  // namespace jax_roipool::cpu
