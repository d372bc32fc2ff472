// The Python module jax_roipool._cpu: handlers as capsules, and the choice of
// the instruction set.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "core/capsules.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace jax_roipool::cpu {
namespace {

std::vector<std::string> NamesOf(const std::vector<Isa>& isas) {
  std::vector<std::string> names;
  for (const Isa isa : isas) names.emplace_back(NameOf(isa));
  return names;
}

PYBIND11_MODULE(_cpu, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled CPU kernels of jax_roipool; use jax_roipool.";
  DefineHandlers(module);
  module.def(
      "built_isas", [] { return NamesOf(BuiltIsas()); },
      "Instruction sets with kernels built in, best first.");
  module.def(
      "supported_isas", [] { return NamesOf(SupportedIsas()); },
      "Those of them that this CPU can run.");
  module.def(
      "isa", [] { return std::string(NameOf(CurrentIsa())); },
      "The instruction set in use.");
  module.def(
      "set_isa", [](const std::string& name) { return SetIsa(name); },
      "Uses `name` from now on; False where this CPU cannot run it.");
}

}  // namespace
}  // namespace jax_roipool::cpu
