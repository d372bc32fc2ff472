#include "ops/nms/cpu_plan.h"

#include <algorithm>

#include "cpu/work.h"

namespace jax_roipool::cpu {

NmsScratch NmsPlan::CutScratch(ScratchCutter* cutter) const {
  // Of the blocks of each bucket, one may hold a single box.
  const int64_t blocks =
      most_chosen / kBlockBoxes + std::min(most_chosen, kBuckets);
  constexpr int64_t kWord = sizeof(uint64_t);
  NmsScratch scratch;
  for (uint64_t*& candidates : scratch.candidates) {
    candidates = cutter->Cut<uint64_t>(boxes * kWord);
  }
  scratch.counts =
      cutter->Cut<uint32_t>(kNumDigits * kDigitValues * sizeof(uint32_t));
  scratch.blocks = cutter->Cut<ChosenBlock>(blocks * sizeof(ChosenBlock));
  scratch.buckets = cutter->Cut<ChosenBlock*>(kBuckets * sizeof(ChosenBlock*));
  return scratch;
}

NmsPlan PlanNms(const NmsCall& call, int64_t threads) {
  NmsPlan plan{};
  plan.boxes = call.boxes;
  plan.most_chosen = std::min(call.boxes, call.outputs);
  for (int64_t group = 0; group < call.groups; ++group) {
    plan.units.push_back({group});
  }
  // To sort a box takes as long as some elements of a map, to compare two
  // a tenth of one.
  const double each = 16.0 + static_cast<double>(plan.most_chosen) / 10.0;
  plan.helpers = HelpersFor(
      static_cast<double>(call.groups) * static_cast<double>(call.boxes) * each,
      call.groups, threads);
  return plan;
}

}  // namespace jax_roipool::cpu
