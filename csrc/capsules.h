// Handlers for Python: capsules by the names of their targets.

#ifndef JAX_ROIPOOL_CSRC_CAPSULES_H_
#define JAX_ROIPOOL_CSRC_CAPSULES_H_

#include <pybind11/pybind11.h>

#include <string>

#include "buffers.h"

namespace jax_roipool {

template <size_t kCount>
pybind11::dict Targets(const Handler (&handlers)[kCount]) {
  pybind11::dict targets;
  for (const Handler& handler : handlers) {
    targets[("jax_roipool_" + std::string(handler.op)).c_str()] =
        pybind11::capsule(reinterpret_cast<void*>(handler.function));
  }
  return targets;
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CAPSULES_H_
