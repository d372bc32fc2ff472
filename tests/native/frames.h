// Calls of ops as XLA makes them: frames of the CPU's handlers.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_FRAMES_H_
#define JAX_ROIPOOL_TESTS_NATIVE_FRAMES_H_

#include <string>

#include "arrays.h"
#include "call.h"
#include "op.h"
#include "xla.h"

namespace jax_roipool::native {

[[noreturn]] void Fail(const std::string& what);

XLA_FFI_Handler* HandlerNamed(const char* name);

// Places the arrays that the op has.
Frame FrameOf(const Call& call, const Op& op, Arrays* arrays);

// Calls the handler of `op` and compares. `threads` may be null.
void RunOp(const Call& call, const Op& op, ThreadPool* threads, Arrays* arrays);

// A call of a few numbers, in two groups.
Call SmallCall(Layout layout = Layout::kNHWC, int levels = 1);

// The handler must refuse `frame`, in words.
void DemandRefusal(
    const char* op, const Frame& frame, const std::string& what,
    XLA_FFI_Error_Code code = XLA_FFI_Error_Code_INVALID_ARGUMENT);

// An op whose calls are of its own kind: its parts of the driver.
struct Framed {
  void (*run_right)(ThreadPool* threads);
  void (*run_malformed)();
  void (*run_without_memory)();
};

// --- Parts of the driver

int RunMalformed();  // frames that no right program makes
int RunMemory();     // calls for which there is no memory
int RunLimits();     // arrays past 2^31 elements

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_FRAMES_H_
