// Running a plan's units of work on XLA's threads: the last thing that a CPU
// handler does.

#ifndef JAX_ROIPOOL_CSRC_CPU_HANDLER_H_
#define JAX_ROIPOOL_CSRC_CPU_HANDLER_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "core/subnormals.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool::cpu {

// How many threads a call may use.
inline int64_t NumThreads(const xla::ffi::ThreadPool& threads) {
  return threads.num_threads() + 1;  // the caller works too
}

// kernel(call, unit, scratch) for every unit of the plan, on XLA's threads as
// far as they are free. A plan has units, the number of helpers that they are
// worth, and CutScratch (see scratch.h).
template <class Plan, class Call, class Kernel>
xla::ffi::Error RunPlan(xla::ffi::ThreadPool& threads, const Plan& plan,
                        const Call& call, Kernel kernel) {
  const int64_t bytes = ScratchBytes(plan);
  ScratchPool pool(bytes);
  std::atomic<bool> out_of_memory{false};
  ParallelFor(
      static_cast<int64_t>(plan.units.size()), plan.helpers,
      [&](auto task) { threads.Schedule(std::move(task)); },
      [&](int64_t turn) {
        const SubnormalsKept subnormals_kept;
        const ScratchPool::Lease memory(&pool);
        if (memory.get() == nullptr && bytes > 0) {
          out_of_memory.store(true, std::memory_order_relaxed);
          return;
        }
        ScratchCutter cutter(memory.get());
        kernel(call, plan.units[turn], plan.CutScratch(&cutter));
      });
  if (out_of_memory.load(std::memory_order_relaxed)) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted,
                           "jax_roipool: no memory for " +
                               std::to_string(bytes) +
                               " bytes of scratch space");
  }
  return xla::ffi::Error::Success();
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_HANDLER_H_
