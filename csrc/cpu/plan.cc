#include "cpu/plan.h"

#include <algorithm>

namespace jax_roipool::cpu {
namespace {

// Elements read or written below which a second thread costs more than it
// brings: waking one takes about 10 us, in which a core moves some 100 KB.
constexpr int64_t kElementsPerHelper = 32 * 1024;

// Units per thread, so that a slow one does not hold up the end.
constexpr int64_t kUnitsPerThread = 8;

// Bytes of one cell in a tile: two cache lines, and the most scratch memory per
// map cell and thread.
constexpr int64_t kTileCellBytes = 128;

// Half of the L2 cache that a core has on current servers.
constexpr int64_t kTileBytes = 1 << 19;

// Gradients are summed in float32 or wider.
int64_t SumBytes(const Problem& problem) {
  return std::max<int64_t>(ElementBytes(problem.element), 4);
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

void SetHelpers(double elements, int64_t threads, Plan* plan) {
  const double worth = elements / kElementsPerHelper;
  const int64_t most = std::min<int64_t>(
      threads - 1, static_cast<int64_t>(plan->units.size()) - 1);
  plan->helpers = std::max<int64_t>(0, worth < static_cast<double>(most)
                                           ? static_cast<int64_t>(worth)
                                           : most);
}

}  // namespace

Plan PlanPool(const Problem& problem, Scale scale, const float* boxes,
              const int32_t* image, int64_t threads) {
  Plan plan;
  GroupByMap(problem, boxes, image, &plan);
  const int64_t rois = problem.groups * problem.rois;
  const int64_t maps = problem.groups * problem.images;
  plan.rows.resize(rois * problem.pooled_height);
  plan.columns.resize(rois * problem.pooled_width);
  for (int64_t roi = 0; roi < rois; ++roi) {
    if (plan.map_of[roi] < 0) continue;
    const float* box = boxes + 4 * roi;  // x1, y1, x2, y2
    const BinAxis vertical =
        MakeBinAxis(box[1], box[3], scale.height, problem.pooled_height);
    const BinAxis horizontal =
        MakeBinAxis(box[0], box[2], scale.width, problem.pooled_width);
    Range* rows = plan.rows.data() + roi * problem.pooled_height;
    Range* columns = plan.columns.data() + roi * problem.pooled_width;
    for (int64_t bin = 0; bin < problem.pooled_height; ++bin) {
      rows[bin] = BinRange(vertical, bin, problem.height);
    }
    for (int64_t bin = 0; bin < problem.pooled_width; ++bin) {
      columns[bin] = BinRange(horizontal, bin, problem.width);
    }
  }

  // Cells read and bins written, per channel.
  std::vector<double> cost(rois, static_cast<double>(problem.bins()));
  double total = 0;
  for (int64_t roi = 0; roi < rois; ++roi) {
    if (plan.map_of[roi] >= 0) {
      cost[roi] += static_cast<double>(Area(
          plan.rows.data() + roi * problem.pooled_height, problem.pooled_height,
          plan.columns.data() + roi * problem.pooled_width,
          problem.pooled_width));
    }
    total += cost[roi];
  }
  const int64_t parts = threads > 1 ? threads * kUnitsPerThread : 1;

  if (problem.layout == Layout::kNHWC) {
    CutRois(Unit{0, rois, 0, problem.channels, -1}, parts, plan.order, cost,
            &plan.units);
    plan.unit_channels = problem.channels;
  } else {
    // A unit turns its channels of one map into a tile. RoIs of one map are
    // divided only where blocks of channels are too few for the threads.
    plan.unit_channels = std::min(
        problem.channels, kTileCellBytes / ElementBytes(problem.element));
    const int64_t blocks = plan.unit_channels > 0
                               ? CeilDiv(problem.channels, plan.unit_channels)
                               : 0;
    for (int64_t map = 0; map <= maps; ++map) {
      const int64_t begin = plan.map_begin[map], end = plan.map_begin[map + 1];
      if (begin == end) continue;
      const int64_t map_parts = std::clamp<int64_t>(
          CeilDiv(parts, blocks * std::max<int64_t>(maps, 1)), 1,
          CeilDiv(end - begin, 8));
      for (int64_t block = 0; block < blocks; ++block) {
        Unit unit{begin, end, block * plan.unit_channels,
                  std::min((block + 1) * plan.unit_channels, problem.channels),
                  map == maps ? -1 : map};
        CutRois(unit, map_parts, plan.order, cost, &plan.units);
      }
    }
  }
  SetHelpers(total * static_cast<double>(problem.channels), threads, &plan);
  return plan;
}

Plan PlanGather(const Problem& problem, const int32_t* image, int64_t threads) {
  Plan plan;
  GroupByMap(problem, nullptr, image, &plan);
  const int64_t rois = problem.groups * problem.rois;
  CutRois(Unit{0, rois, 0, problem.channels, -1},
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
  // A block of channels fills one or two cache lines per cell, two while the
  // tile of sums stays within half of a common L2.
  const int64_t line = 64 / SumBytes(problem);
  const bool wide = problem.cells() * kTileCellBytes <= kTileBytes;
  plan.unit_channels = std::min(problem.channels, wide ? 2 * line : line);
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
  int64_t tile = 0, tile_pooled = 0, tile_argmax = 0;
};

int64_t Aligned(int64_t bytes) { return CeilDiv(bytes, 64) * 64; }

Pieces PiecesOf(const Problem& problem, const Plan& plan, ScratchUse use) {
  const int64_t bytes = ElementBytes(problem.element);
  const int64_t tile = problem.cells() * plan.unit_channels;
  const int64_t results = problem.bins() * plan.unit_channels;
  Pieces pieces;
  if (use == ScratchUse::kScatter) {
    if (bytes < 4 || problem.layout == Layout::kNHWC) {
      pieces.tile = Aligned(tile * SumBytes(problem));
    }
  } else if (use != ScratchUse::kNone && problem.layout == Layout::kNCHW) {
    pieces.tile = Aligned(tile * bytes);
    pieces.tile_pooled = Aligned(results * bytes);
    if (use == ScratchUse::kPoolArgmax) {
      pieces.tile_argmax = Aligned(results * 4);
    }
  }
  return pieces;
}

}  // namespace

int64_t ScratchBytes(const Problem& problem, const Plan& plan, ScratchUse use) {
  const Pieces pieces = PiecesOf(problem, plan, use);
  return pieces.tile + pieces.tile_pooled + pieces.tile_argmax;
}

Scratch MakeScratch(const Problem& problem, const Plan& plan, ScratchUse use,
                    void* block) {
  const Pieces pieces = PiecesOf(problem, plan, use);
  auto* begin = static_cast<unsigned char*>(block);
  return {pieces.tile > 0 ? begin : nullptr, begin + pieces.tile,
          reinterpret_cast<int32_t*>(begin + pieces.tile + pieces.tile_pooled)};
}

}  // namespace jax_roipool::cpu
