// Candidates by their keys.

#ifndef JAX_ROIPOOL_CSRC_OPS_NMS_CPU_ORDER_H_
#define JAX_ROIPOOL_CSRC_OPS_NMS_CPU_ORDER_H_

#include <cstdint>
#include <cstring>

#include "ops/nms/call.h"
#include "ops/nms/cpu_kernels.h"

namespace jax_roipool::cpu::JAX_ROIPOOL_ISA {
namespace {

struct Candidates {
  const uint64_t* sorted;  // the index is the lower half of each
  int64_t count;
};

// The greatest key first, the lower index first among equals: a radix sort,
// which is stable. Of 12000, comparing takes ten times as long.
Candidates SortCandidates(const int32_t* keys, int64_t boxes,
                          const NmsScratch& scratch) {
  uint64_t* from = scratch.candidates[0];
  uint64_t* to = scratch.candidates[1];
  std::memset(scratch.counts, 0, kNumDigits * kDigitValues * sizeof(uint32_t));
  int64_t count = 0;
  for (int64_t i = 0; i < boxes; ++i) {
    if (keys[i] == kNeverChosen) continue;
    // Unsigned, and the other way round.
    const uint32_t rank = ~(static_cast<uint32_t>(keys[i]) ^ 0x80000000u);
    from[count++] = uint64_t{rank} << 32 | static_cast<uint64_t>(i);
    for (int digit = 0; digit < kNumDigits; ++digit) {
      const uint32_t value = rank >> (digit * kDigitBits) & (kDigitValues - 1);
      ++scratch.counts[digit * kDigitValues + value];
    }
  }
  for (int digit = 0; digit < kNumDigits; ++digit) {
    uint32_t* next = scratch.counts + digit * kDigitValues;
    uint32_t sum = 0;
    for (int64_t value = 0; value < kDigitValues; ++value) {
      const uint32_t here = next[value];
      next[value] = sum;
      sum += here;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int shift = 32 + digit * kDigitBits;
      to[next[from[i] >> shift & (kDigitValues - 1)]++] = from[i];
    }
    uint64_t* const sorted = to;
    to = from;
    from = sorted;
  }
  return {from, count};
}

}  // namespace
}  // namespace jax_roipool::cpu::JAX_ROIPOOL_ISA

#endif  // JAX_ROIPOOL_CSRC_OPS_NMS_CPU_ORDER_H_
