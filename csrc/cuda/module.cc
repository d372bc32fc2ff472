// Placeholder that the build is proven with.

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include "xla/ffi/api/ffi.h"

namespace py = pybind11;

namespace jax_roipool::cuda {

int64_t Prove(cudaStream_t stream, const void* in, void* out);

namespace {

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.attr("FFI_API_VERSION") =
      py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  module.attr("ARCHITECTURES") = JAX_ROIPOOL_CUDA_ARCHITECTURES;
  module.def("ffi_targets", [] { return py::dict(); });
  module.def("prove", [] { return Prove(nullptr, nullptr, nullptr); });
}

}  // namespace
}  // namespace jax_roipool::cuda
