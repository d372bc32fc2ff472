// The fuzz target: any bytes become shapes that are checked, or a call that is
// run and compared.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_FUZZ_H_
#define JAX_ROIPOOL_TESTS_NATIVE_FUZZ_H_

#include <cstddef>
#include <cstdint>

// As libFuzzer calls it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace jax_roipool::native {

struct Counts {
  int64_t shapes = 0;      // inputs that were shapes
  int64_t calls = 0;       // inputs that were calls
  int64_t executions = 0;  // ops of calls, on each instruction set, that
                           // reached a kernel
};
Counts Done();

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_FUZZ_H_
