// The arrays of a call in guarded memory, and comparing what an op has written.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_

#include <cstdint>
#include <vector>

#include "call.h"
#include "guarded.h"
#include "op.h"

namespace jax_roipool::native {

class Arrays {
 public:
  // Places what the call has. Its results are garbage.
  void Place(const Call& call);
  void PlaceOperands(const Call& call, const Op& op);
  void PlaceResults(const Call& call, const Op& op);

  void* data(Array array) const { return at(array).data(); }
  template <typename T>
  T* as(Array array) const {
    return at(array).as<T>();
  }

  // Whether the results are as wanted, NaN equal to NaN, and nothing beyond
  // them was written to; says where not.
  bool HasResults(const Call& call, const Op& op,
                  const std::vector<Wanted>& wanted) const;
  // Whether all operands are as the call has them.
  bool OperandsAreWhole(const Call& call) const;

 private:
  const Guarded& at(Array array) const {
    return memory_[static_cast<int>(array)];
  }
  Guarded& at(Array array) { return memory_[static_cast<int>(array)]; }

  Guarded memory_[kNumArrays];
};

// Whether `got`, elements, has the same values, NaN equal to NaN; says where
// not.
bool Same(const char* what, Element element, const void* got,
          const std::vector<double>& wanted);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_
