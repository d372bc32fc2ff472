// The Python module jax_roipool._cpu: handlers as capsules, the choice of the
// instruction set, and what tests ask of the parts that they cannot see: bins,
// which a Python twin must equal, and who shares tables.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "capsules.h"
#include "cpu/dispatch.h"
#include "cpu/handlers.h"
#include "cpu/plan.h"
#include "geometry.h"
#include "problem.h"

namespace py = pybind11;

namespace jax_roipool::cpu {
namespace {

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

std::vector<std::tuple<int64_t, int64_t, int64_t>> SharedTables(
    const std::string& layout, std::array<int64_t, 3> map,
    const std::vector<std::array<float, 4>>& boxes,
    std::array<int64_t, 2> pooled, bool argmax) {
  Problem problem{};
  if (!ParseLayout(layout, &problem.layout)) throw py::value_error(layout);
  problem.element = Element::kFloat32;
  problem.groups = problem.images = 1;
  problem.height = map[0];
  problem.width = map[1];
  problem.channels = map[2];
  problem.rois = static_cast<int64_t>(boxes.size());
  problem.pooled_height = pooled[0];
  problem.pooled_width = pooled[1];
  const std::vector<int32_t> image(boxes.size(), 0);
  const Plan plan =
      PlanPool(problem, {1, 1}, boxes.empty() ? nullptr : boxes[0].data(),
               image.data(), argmax, CurrentTarget().vector_bytes, 1);
  std::vector<std::tuple<int64_t, int64_t, int64_t>> tables;
  for (const Unit& unit : plan.units) {
    if (unit.source == Source::kSharedTable && unit.channel_begin == 0) {
      tables.emplace_back(unit.block.height, unit.block.width,
                          unit.roi_end - unit.roi_begin);
    }
  }
  return tables;
}

PYBIND11_MODULE(_cpu, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled CPU kernels of jax_roipool; use jax_roipool.";
  // Of the headers this was compiled against, to be compared with jaxlib's.
  module.attr("FFI_API_VERSION") =
      py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  module.def(
      "ffi_targets", [] { return Targets(kHandlers); },
      "Target name -> handler capsule.");
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
  module.def("shared_tables", &SharedTables, py::arg("layout"), py::arg("map"),
             py::arg("boxes"), py::arg("pooled"), py::arg("argmax"),
             "Block height, block width and number of RoIs of the tables that "
             "RoIs of one image share (blocks.h).");
}

}  // namespace
}  // namespace jax_roipool::cpu
