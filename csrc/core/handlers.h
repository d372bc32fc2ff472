// What handlers of every op and platform have in common: how a module finds
// them, and that they answer with errors, never with exceptions.

#ifndef JAX_ROIPOOL_CSRC_CORE_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_CORE_HANDLERS_H_

#include <exception>
#include <string>
#include <utility>

#include "core/subnormals.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

// A handler that the module with this file in it has. An object of static
// storage beside the handler is all that registers it: a new op touches no
// list.
class RegisteredHandler {
 public:
  RegisteredHandler(const char* op, XLA_FFI_Handler* function)
      : op_(op), function_(function), next_(first_) {
    first_ = this;
  }
  RegisteredHandler(const RegisteredHandler&) = delete;
  RegisteredHandler& operator=(const RegisteredHandler&) = delete;

  // All of them, in no order that means anything.
  static const RegisteredHandler* First() { return first_; }
  const RegisteredHandler* next() const { return next_; }

  const char* op() const { return op_; }  // XLA's name: "jax_roipool_" + op
  XLA_FFI_Handler* function() const { return function_; }

 private:
  // Null before any constructor runs.
  inline static const RegisteredHandler* first_ = nullptr;

  const char* const op_;
  XLA_FFI_Handler* const function_;
  const RegisteredHandler* const next_;
};

inline xla::ffi::Error InvalidArgument(std::string message) {
  return xla::ffi::Error(xla::ffi::ErrorCode::kInvalidArgument,
                         "jax_roipool: " + std::move(message));
}

// What a handler does, `body`, on XLA's thread, which flushes subnormals: it
// makes plans, which allocate, and checks and multiplies coordinates and
// scales.
template <typename Body>
xla::ffi::Error Guarded(const Body& body) {
  const SubnormalsKept subnormals_kept;
  try {
    return body();
  } catch (const std::exception& error) {
    return xla::ffi::Error(
        xla::ffi::ErrorCode::kResourceExhausted,
        std::string("jax_roipool: no memory for the call's plan: ") +
            error.what());
  }
}

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_CORE_HANDLERS_H_
