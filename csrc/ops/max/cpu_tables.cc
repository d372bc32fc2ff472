#include "ops/max/cpu_tables.h"

#include <algorithm>
#include <array>
#include <utility>

namespace jax_roipool::cpu {
namespace {

// Blocks of up to 2^(kPowers - 1) rows or columns.
constexpr int kPowers = 8;

// What things cost, in nanoseconds per vector of channels, as measured on a
// server core with AVX-512. Only their ratios matter, and those not much: a
// choice that is nearly even is nearly as good either way.
struct Costs {
  double cell;    // a cell of a bin, without a shared table
  double lookup;  // a block of a bin, in a table
  double bin;     // a bin of a table, beyond what it costs without
  double pack;    // a cell, as the table is made
  double pass;    // a cell, each time that blocks are doubled
};

Costs CostsOf(const MaxPoolCall& call, int64_t level) {
  // Maps that stay in the caches are pooled from where they lie much faster.
  constexpr int64_t kNearBytes = int64_t{8} << 20;
  const bool near =
      call.maps.map_size(level) * ElementBytes(call.maps.element) <= kNearBytes;
  const bool argmax = call.argmax != nullptr;
  Costs costs;
  if (call.maps.layout == Layout::kNCHW) {
    costs.cell = 20;
    costs.bin = 0;
  } else {
    costs.cell = near ? 0.7 : 3.5;
    costs.bin = 7;
  }
  costs.lookup = argmax ? 1.5 : 0.7;
  costs.pack = 6;
  costs.pass = argmax ? 3 : 1.5;
  return costs;
}

// RoIs whose smallest bins hold the same blocks, and how many look-ups they
// take for each size of block that they hold.
struct Class {
  std::vector<int64_t> rois;
  std::array<std::array<double, kPowers>, kPowers> lookups{};
  double bins = 0;
  double cost = 0;  // as chosen so far: a table's, or without
  int row_power = -1, column_power = -1;
};

// One axis of a RoI: how many bins are not empty, the power of two of the
// largest blocks that each of them holds, and how many blocks cover them all,
// for each power up to that.
struct Axis {
  int64_t bins = 0;
  int power = kPowers - 1;
  std::array<int64_t, kPowers> blocks{};

  Axis(const Range* ranges, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t length = ranges[i].end - ranges[i].begin;
      if (length <= 0) continue;
      ++bins;
      while (length >> power == 0) --power;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t length = ranges[i].end - ranges[i].begin;
      if (length <= 0) continue;
      for (int k = 0; k <= power; ++k) {
        blocks[k] += (length + (int64_t{1} << k) - 1) >> k;
      }
    }
  }
};

}  // namespace

std::vector<SharedTable> ChooseTables(const PlannedMaxPool& call, int64_t map,
                                      const int64_t* rois, int64_t num_rois,
                                      std::vector<int64_t>* rest) {
  const Bins& bins = call.bins;
  const int64_t level = PlaceOf(call.maps, map).level;
  const Costs costs = CostsOf(call, level);
  std::array<std::array<Class, kPowers>, kPowers> classes;
  for (int64_t i = 0; i < num_rois; ++i) {
    const Axis vertical(call.rows + rois[i] * bins.height, bins.height);
    const Axis horizontal(call.columns + rois[i] * bins.width, bins.width);
    Class& found = classes[vertical.power][horizontal.power];
    found.rois.push_back(rois[i]);
    found.bins += static_cast<double>(vertical.bins * horizontal.bins);
    for (int a = 0; a <= vertical.power; ++a) {
      for (int b = 0; b <= horizontal.power; ++b) {
        found.lookups[a][b] +=
            static_cast<double>(vertical.blocks[a] * horizontal.blocks[b]);
      }
    }
  }
  const auto lookups_cost = [&](const Class& of, int a, int b) {
    return costs.lookup * of.lookups[a][b] + costs.bin * of.bins;
  };
  const auto build_cost = [&](int a, int b) {
    return static_cast<double>(call.maps.levels[level].cells()) *
           (costs.pack + costs.pass * (a + b));
  };

  // Takes the table that saves most, again and again while one saves anything.
  for (auto& row : classes) {
    for (Class& each : row) each.cost = costs.cell * each.lookups[0][0];
  }
  for (;;) {
    double most = 0;
    int a = -1, b = -1;
    for (int i = 0; i < kPowers; ++i) {
      for (int j = 0; j < kPowers; ++j) {
        double saved = -build_cost(i, j);
        for (int p = i; p < kPowers; ++p) {
          for (int q = j; q < kPowers; ++q) {
            const Class& each = classes[p][q];
            saved += std::max(0.0, each.cost - lookups_cost(each, i, j));
          }
        }
        if (saved > most) most = saved, a = i, b = j;
      }
    }
    if (a < 0) break;
    for (int p = a; p < kPowers; ++p) {
      for (int q = b; q < kPowers; ++q) {
        Class& each = classes[p][q];
        if (each.rois.empty() || lookups_cost(each, a, b) >= each.cost) {
          continue;
        }
        each.cost = lookups_cost(each, a, b);
        each.row_power = a;
        each.column_power = b;
      }
    }
  }

  std::vector<SharedTable> groups;
  for (int a = 0; a < kPowers; ++a) {
    for (int b = 0; b < kPowers; ++b) {
      SharedTable group{
          {int64_t{1} << a, int64_t{1} << b}, {}, build_cost(a, b), 0};
      for (const auto& row : classes) {
        for (const Class& each : row) {
          if (each.row_power != a || each.column_power != b) continue;
          group.rois.insert(group.rois.end(), each.rois.begin(),
                            each.rois.end());
          group.lookups += each.cost;
        }
      }
      if (!group.rois.empty()) groups.push_back(std::move(group));
    }
  }
  for (const auto& row : classes) {
    for (const Class& each : row) {
      if (each.row_power >= 0) continue;
      rest->insert(rest->end(), each.rois.begin(), each.rois.end());
    }
  }
  return groups;
}

}  // namespace jax_roipool::cpu
