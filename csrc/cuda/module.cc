// The Python module jax_roipool._cuda: handlers as capsules, and what the
// machine has to run them on. It loads on machines without a GPU too, where
// programs for one can be lowered and exported.

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include "core/capsules.h"

namespace py = pybind11;

namespace jax_roipool::cuda {
namespace {

// The CUDA version that the installed driver supports, 0 where there is none.
int DriverVersion() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled CUDA kernels of jax_roipool; use jax_roipool.";
  DefineHandlers(module);
  // As CUDA counts: 13000 is 13.0.
  module.attr("CUDA_VERSION") = CUDART_VERSION;
  module.attr("ARCHITECTURES") = JAX_ROIPOOL_CUDA_ARCHITECTURES;
  module.def("driver_version", &DriverVersion,
             "What the installed driver supports, as CUDA_VERSION; 0 without.");
}

}  // namespace
}  // namespace jax_roipool::cuda
