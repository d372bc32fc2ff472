// A module's handlers for Python: capsules by the names of their targets.

#ifndef JAX_ROIPOOL_CSRC_CORE_CAPSULES_H_
#define JAX_ROIPOOL_CSRC_CORE_CAPSULES_H_

#include <pybind11/pybind11.h>

#include <string>

#include "core/handlers.h"

namespace jax_roipool {

// What both modules give Python: the version of the headers that they were
// compiled against, to be compared with jaxlib's, and their handlers.
inline void DefineHandlers(pybind11::module_& module) {
  module.attr("FFI_API_VERSION") =
      pybind11::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  module.def(
      "ffi_targets",
      [] {
        pybind11::dict targets;
        for (const auto* handler = RegisteredHandler::First();
             handler != nullptr; handler = handler->next()) {
          const std::string name = std::string("jax_roipool_") + handler->op();
          targets[name.c_str()] =
              pybind11::capsule(reinterpret_cast<void*>(handler->function()));
        }
        return targets;
      },
      "XLA's target name -> handler capsule.");
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_CAPSULES_H_
