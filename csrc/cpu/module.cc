// The Python module jax_roipool._cpu: handlers as capsules, the choice of the
// instruction set, and the bins for the test that holds geometry.h and its
// Python twin together.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/handlers.h"
#include "geometry.h"

namespace py = pybind11;

namespace jax_roipool::cpu {
namespace {

py::dict Targets() {
  py::dict targets;
  for (const Handler& handler : kHandlers) {
    targets[("jax_roipool_" + std::string(handler.op)).c_str()] =
        py::capsule(reinterpret_cast<void*>(handler.function));
  }
  return targets;
}

std::vector<std::string> SupportedNames() {
  std::vector<std::string> names;
  for (const KernelTable* table : SupportedTargets()) {
    names.emplace_back(table->name);
  }
  return names;
}

std::vector<std::pair<int32_t, int32_t>> BinBounds(float low, float high,
                                                   float scale,
                                                   int64_t num_bins,
                                                   int64_t extent) {
  const BinAxis axis = MakeBinAxis(low, high, scale, num_bins);
  std::vector<std::pair<int32_t, int32_t>> bounds;
  for (int64_t bin = 0; bin < num_bins; ++bin) {
    const Range range = BinRange(axis, bin, extent);
    bounds.emplace_back(range.begin, range.end);
  }
  return bounds;
}

PYBIND11_MODULE(_cpu, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled CPU kernels of jax_roipool; use jax_roipool.";
  // Of the headers this was compiled against, to be compared with jaxlib's.
  module.attr("FFI_API_VERSION") =
      py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  module.def("ffi_targets", &Targets, "Target name -> handler capsule.");
  module.def("built_targets", &BuiltTargets,
             "Instruction sets with kernels built in, best first.");
  module.def("supported_targets", &SupportedNames,
             "Those of them that this CPU can run.");
  module.def(
      "target", [] { return std::string(CurrentTarget().name); },
      "The instruction set in use.");
  module.def(
      "set_target", [](const std::string& name) { return SetTarget(name); },
      "Uses `name` from now on; False where this CPU cannot run it.");
  module.def("bin_bounds", &BinBounds,
             "Half-open ranges of the bins along one axis (geometry.h).");
}

}  // namespace
}  // namespace jax_roipool::cpu
