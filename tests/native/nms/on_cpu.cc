#include "cpu/dispatch.h"
#include "nms/nms_input.h"
#include "op.h"
#include "ops/nms/cpu_plan.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

bool Run(const NmsInput& input, const std::vector<int32_t>& expected) {
  static auto* const arrays = new NmsArrays;
  Call order{};  // that units are run in
  order.seed = input.seed;
  for (const Way isa : cpu::SupportedIsas()) {
    const NmsCall call = arrays->Place(input);
    const cpu::NmsPlan plan = cpu::PlanNms(call, 2);
    GuardedPlan& memory = PlanMemory();
    if (!RunUnits(order, plan, call, cpu::NmsKernelsFor(isa).choose,
                  &memory.scratch()) ||
        !arrays->Right(input, expected)) {
      std::fprintf(stderr, "%s, ", WayName(isa).c_str());
      return false;
    }
  }
  return true;
}

const Registered<NmsRunner> runner({Run});

}  // namespace
}  // namespace jax_roipool::native
