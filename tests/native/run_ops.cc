#include "run_ops.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "op.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

[[noreturn]] void Fail(const Call& call, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), call.Describe().c_str());
  std::abort();
}

// A level of a pyramid gives what it gives alone, to the bit; one of them, by
// the call's seed. All arrays begin at a page, so that vectors are moved alike.
void DemandLevelAlone(Call call) {
  static auto* const all = new Arrays;
  static auto* const alone = new Arrays;
  call.flush = Flush::kBegin;
  const int level = static_cast<int>(call.seed % call.sizes.levels());
  const Call one = OfLevel(call, level);
  all->Place(call);
  alone->Place(one);
  for (const Runner& runner : Registered<Runner>::All()) {
    const Op& op = OpNamed(runner.op);
    if (op.expect(one)[0].empty()) continue;
    ForEachWay(call, [&](const Way& way) {
      all->PlaceResults(call, op);
      alone->PlaceResults(one, op);
      if (!runner.run(call, *all, way) || !runner.run(one, *alone, way) ||
          !all->HasBitsOf(call, op, level, *alone)) {
        Fail(call, WayName(way) + ", " + op.name + ", level " +
                       std::to_string(level) + " alone");
      }
    });
  }
}

}  // namespace

int64_t RunOps(const Call& call) {
  static auto* const arrays = new Arrays;
  arrays->Place(call);
  int64_t executions = 0;
  for (const Runner& runner : Registered<Runner>::All()) {
    const Op& op = OpNamed(runner.op);
    const std::vector<Wanted> wanted = op.expect(call);
    if (wanted[0].empty()) continue;  // handlers begin nothing
    ForEachWay(call, [&](const Way& way) {
      arrays->PlaceResults(call, op);
      if (!runner.run(call, *arrays, way) ||
          !arrays->HasResults(call, op, wanted)) {
        Fail(call, WayName(way) + ", " + op.name);
      }
      ++executions;
    });
  }
  if (call.sizes.levels() > 1) DemandLevelAlone(call);
  if (!arrays->OperandsAreWhole(call)) Fail(call, "an operand was written to");
  return executions;
}

}  // namespace jax_roipool::native
