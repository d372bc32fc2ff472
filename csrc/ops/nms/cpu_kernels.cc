// The CPU's kernel of nms, compiled once per instruction set; see
// cpu/vectors.h.

#include "ops/nms/cpu_kernels.h"

#include <cstdint>

#include "ops/nms/call.h"
#include "ops/nms/cpu_chosen.h"
#include "ops/nms/cpu_order.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

// Candidates in the order of their keys, each beside those chosen so far.
void Choose(const NmsCall& call, const NmsUnit& unit,
            const NmsScratch& scratch) {
  const int64_t first = unit.group * call.boxes;
  const float* corners = call.corners + 4 * first;
  const int32_t* classes = call.classes + first;
  int32_t* indices = call.indices + unit.group * call.outputs;
  const Candidates candidates =
      SortCandidates(call.keys + first, call.boxes, scratch);
  Chosen chosen(call.inclusive, call.thresholds[unit.group], scratch);
  int64_t count = 0;
  for (int64_t i = 0; i < candidates.count && count < call.outputs; ++i) {
    const auto index = static_cast<int32_t>(candidates.sorted[i]);
    const float* box = corners + 4 * int64_t{index};
    if (chosen.Add({box[0], box[1], box[2], box[3]}, classes[index])) {
      indices[count++] = index;
    }
  }
  while (count < call.outputs) indices[count++] = -1;
}

}  // namespace

extern const NmsKernels kNmsKernels = {Choose};

}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA
