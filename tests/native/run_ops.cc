#include "run_ops.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "op.h"
#include "run_backend.h"

namespace jax_roipool::native {
namespace {

[[noreturn]] void Fail(const Call& call, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), call.Describe().c_str());
  std::abort();
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
  if (!arrays->OperandsAreWhole(call)) Fail(call, "an operand was written to");
  return executions;
}

}  // namespace jax_roipool::native
