#include "ops/bands/cpu_plans.h"

#include <algorithm>
#include <tuple>

namespace jax_roipool::cpu {
namespace {

// What a unit of the transpose may touch again and again: half of the smallest
// second-level cache among CPUs of today.
constexpr int64_t kUnitBytes = 512 * 1024;

// Float64 boxes that are not finite have no entries.
RoisByMap SortRois(const BandsCall& call) {
  return SortByMap(
      call, call.wide_boxes ? nullptr : static_cast<const float*>(call.boxes));
}

BandsScratchSizes ScratchOf(const BandsCall& call, const BandsKernels& kernels,
                            int64_t column_bytes) {
  int64_t width = 0;
  for (int i = 0; i < call.maps.num_levels; ++i) {
    width = std::max(width, call.maps.levels[i].width);
  }
  const int64_t places = std::min(width, MostEntries(call, false));
  const bool last = call.maps.layout == Layout::kNHWC;
  return {call, places * column_bytes,
          last ? 0 : call.bins.count() * kernels.vector_bytes, 0, 0};
}

// Numbers that a RoI reads and writes, per channel; about.
double CostOf(const BandsCall& call, int64_t roi, int64_t map) {
  if (map < 0) return static_cast<double>(call.bins.count()) / 4;
  const Reach reach = ReachOf(call, roi, PlaceOf(call.maps, map).level);
  const auto entries = [&](bool rows, Range cells) {
    const int64_t bins = rows ? call.bins.height : call.bins.width;
    return static_cast<double>(
        std::min(MostEntries(call, rows), cells.end - cells.begin + 2 * bins));
  };
  const double rows = entries(true, reach.rows);
  const double columns = entries(false, reach.columns);
  const auto height = static_cast<double>(call.bins.height);
  return rows * columns +
         height * (columns + static_cast<double>(call.bins.width));
}

// RoIs of a map by strips of its rows, from left to right in each, so that
// those that follow one another read the same cells: of a large map one RoI
// reads as much as a second-level cache holds, and the next to come is rarely
// near it.
void SortByPlace(const BandsCall& call, RoisByMap* rois) {
  constexpr int32_t kStripRows = 24;
  struct Place {
    int32_t strip, column;
    int64_t roi;
  };
  std::vector<Place> places;
  for (int64_t map = 0; map < call.maps.count_all(); ++map) {
    const int64_t begin = rois->begin[map], end = rois->begin[map + 1];
    if (end - begin < 3) continue;
    places.clear();
    const int64_t level = PlaceOf(call.maps, map).level;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t roi = rois->order[i];
      const Reach reach = ReachOf(call, roi, level);
      places.push_back(
          {reach.rows.begin / kStripRows, reach.columns.begin, roi});
    }
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
      return std::tie(a.strip, a.column, a.roi) <
             std::tie(b.strip, b.column, b.roi);
    });
    for (int64_t i = begin; i < end; ++i) {
      rois->order[i] = places[i - begin].roi;
    }
  }
}

// Ranges of RoIs of equal cost, each in pieces of its channels where there are
// fewer RoIs than threads could share; `channels` is what a piece must divide.
template <class Plan>
void CutRois(const BandsCall& call, int64_t threads, int64_t channels,
             Plan* plan) {
  const int64_t rois = call.rois.count();
  const int64_t parts = PartsFor(threads);
  SortByPlace(call, &plan->rois);
  double total = 0;
  std::vector<double> costs(rois);
  for (int64_t i = 0; i < rois; ++i) {
    const int64_t roi = plan->rois.order[i];
    costs[i] = CostOf(call, roi, plan->rois.map_of[roi]);
    total += costs[i];
  }
  const int64_t pieces =
      std::min(CeilDiv(parts, std::max<int64_t>(rois, 1)),
               std::max<int64_t>(call.maps.channels / channels, 1));
  const int64_t piece =
      CeilDiv(CeilDiv(call.maps.channels, pieces), channels) * channels;
  CutByCost(
      0, rois, parts, [&](int64_t i) { return costs[i]; },
      [&](int64_t begin, int64_t end) {
        int64_t c = 0;
        do {  // of no channels too, whose boxes have a gradient of 0
          plan->units.push_back(
              {begin, end, c, std::min(c + piece, call.maps.channels)});
          c += piece;
        } while (c < call.maps.channels);
      });
  plan->helpers = HelpersFor(total * static_cast<double>(call.maps.channels),
                             static_cast<int64_t>(plan->units.size()), threads);
}

}  // namespace

BandsApplyPlan PlanBandsApply(const BandsApplyCall& call,
                              const BandsKernels& kernels, int64_t threads) {
  BandsApplyPlan plan{};
  plan.rois = SortRois(call);
  plan.scratch = ScratchOf(call, kernels, kernels.column_bytes);
  const int64_t bytes = call.maps.layout == Layout::kNHWC
                            ? kernels.column_bytes
                            : kernels.vector_bytes;
  const int64_t number = std::max<int64_t>(ElementBytes(call.maps.element), 4);
  CutRois(call, threads, bytes / number, &plan);
  return plan;
}

BandsBoxGradientPlan PlanBandsBoxGradient(const BandsBoxGradientCall& call,
                                          const BandsKernels& kernels,
                                          int64_t threads) {
  BandsBoxGradientPlan plan{};
  plan.rois = SortRois(call);
  plan.scratch = ScratchOf(call, kernels, kernels.slopes_bytes);
  plan.scratch.products =
      MostEntries(call, false) * kSlopes * kernels.vector_bytes;
  // No sum is divided.
  CutRois(call, threads, std::max<int64_t>(call.maps.channels, 1), &plan);
  return plan;
}

BandsTransposePlan PlanBandsTranspose(const BandsTransposeCall& call,
                                      const BandsKernels& kernels,
                                      int64_t threads) {
  BandsTransposePlan plan{};
  const Maps& maps = call.maps;
  plan.rois = SortRois(call);
  plan.scratch = ScratchOf(call, kernels, kernels.column_bytes);
  plan.rows.resize(call.rois.count());
  double numbers = 0;
  for (int64_t i = 0; i < call.rois.count(); ++i) {
    const int64_t roi = plan.rois.order[i], map = plan.rois.map_of[roi];
    numbers += CostOf(call, roi, map);
    if (map < 0) continue;
    plan.rows[i] = ReachOf(call, roi, PlaceOf(maps, map).level).rows;
  }
  const int64_t number = std::max<int64_t>(ElementBytes(maps.element), 4);
  const int64_t channels = maps.layout == Layout::kNHWC
                               ? std::max<int64_t>(maps.channels, 1)
                               : kernels.vector_bytes / number;
  for (int64_t map = 0; map < maps.count_all(); ++map) {
    const Level& level = maps.levels[PlaceOf(maps, map).level];
    if (level.cells() * maps.channels == 0) continue;
    const int64_t row =
        level.width * std::min(channels, maps.channels) * number;
    const int64_t pieces =
        CeilDiv(level.height, std::max<int64_t>(kUnitBytes / row, 1));
    const int64_t rows = CeilDiv(level.height, pieces);
    for (int64_t c = 0; c < maps.channels; c += channels) {
      for (int64_t y = 0; y < level.height; y += rows) {
        plan.units.push_back({map, plan.rois.begin[map],
                              plan.rois.begin[map + 1], c,
                              std::min(c + channels, maps.channels), y,
                              std::min(y + rows, level.height)});
      }
    }
    if (ElementBytes(maps.element) < number) {
      plan.scratch.sums = std::max(plan.scratch.sums, rows * row);
    }
    numbers += static_cast<double>(level.cells());
  }
  plan.helpers = HelpersFor(numbers * static_cast<double>(maps.channels),
                            static_cast<int64_t>(plan.units.size()), threads);
  return plan;
}

}  // namespace jax_roipool::cpu
