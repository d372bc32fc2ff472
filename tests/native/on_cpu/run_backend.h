// The CPU's ops as their handlers call them, without XLA: a plan, then every
// unit of it on the kernel, here in any order on one thread.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_
#define JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "call.h"
#include "cpu/dispatch.h"
#include "cpu/scratch.h"
#include "guarded.h"
#include "run_ops.h"

namespace jax_roipool::native {

// What there is to try on this backend: its instruction sets.
using Way = cpu::Isa;
inline std::string WayName(Way isa) { return cpu::NameOf(isa); }
template <typename Run>
void ForEachWay(const Call&, const Run& run) {
  for (const Way isa : cpu::SupportedIsas()) run(isa);
}

// Runs one op; false where something is already found wrong.
struct Runner {
  const char* op;
  bool (*run)(const Call& call, const Arrays& arrays, Way isa);
};

// Arrays of a plan in guarded memory of their own.
class GuardedPlan {
 public:
  template <typename T>
  const T* Guard(const std::vector<T>& values, Flush flush) {
    Guarded& memory = memory_[used_++];
    memory.Place(values.data(), values.size() * sizeof(T), flush);
    return memory.as<T>();
  }
  void Begin() { used_ = 0; }
  Guarded& scratch() { return scratch_; }

 private:
  Guarded memory_[8], scratch_;
  int used_ = 0;
};

inline GuardedPlan& PlanMemory() {
  static auto* const memory = new GuardedPlan;
  memory->Begin();
  return *memory;
}

template <class Plan, class Planned, class Kernel>
bool RunUnits(const Call& call, const Plan& plan, const Planned& planned,
              Kernel kernel, Guarded* scratch) {
  Random random(call.seed);
  auto units = plan.units;
  for (size_t i = units.size(); i > 1; --i) {
    std::swap(units[i - 1], units[random.Below(static_cast<uint32_t>(i))]);
  }
  const int64_t bytes = cpu::ScratchBytes(plan);
  for (const auto& unit : units) {
    // Whatever another unit has left there, or fresh memory holds.
    void* memory = scratch->Place(static_cast<size_t>(bytes), Flush::kEnd);
    cpu::ScratchCutter cutter(bytes > 0 ? memory : nullptr);
    kernel(planned, unit, plan.CutScratch(&cutter));
    if (!scratch->AroundIsWhole()) return false;
  }
  return true;
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_RUN_BACKEND_H_
