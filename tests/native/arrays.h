// The arrays of a call in guarded memory, and comparing what an op has written.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_
#define JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_

#include <cstdint>
#include <vector>

#include "call.h"
#include "guarded.h"
#include "op.h"

namespace jax_roipool::native {

// Of how many buffers an array is made.
inline int NumBuffers(const Call& call, Array array) {
  return HasMapShape(array) ? call.sizes.levels() : 1;
}
// What an op is handed: its operands, and `level` where there are several.
std::vector<Array> OperandsOf(const Call& call, const Op& op);

class Arrays {
 public:
  // Places what the call has. Its results are garbage.
  void Place(const Call& call);
  void PlaceOperands(const Call& call, const Op& op);
  void PlaceResults(const Call& call, const Op& op);

  void* data(Array array, int level = 0) const {
    return at(array, level).data();
  }
  template <typename T>
  T* as(Array array) const {
    return at(array).as<T>();
  }
  // Where the maps of each level lie.
  template <typename Void>
  void GetLevels(const Call& call, Array array, Void** levels) const {
    for (int i = 0; i < call.sizes.levels(); ++i) levels[i] = data(array, i);
  }

  // Whether the results are as wanted, NaN equal to NaN, and nothing beyond
  // them was written to; says where not.
  bool HasResults(const Call& call, const Op& op,
                  const std::vector<Wanted>& wanted) const;
  // Whether all operands are as the call has them.
  bool OperandsAreWhole(const Call& call) const;
  // Whether the results have the bits of others, those of one of the call's
  // levels alone, as far as they are that level's.
  bool HasBitsOf(const Call& call, const Op& op, int level,
                 const Arrays& others) const;

 private:
  void PlaceOperand(const Call& call, Array array);
  const Guarded& at(Array array, int level = 0) const {
    return memory_[static_cast<int>(array)][level];
  }
  Guarded& at(Array array, int level = 0) {
    return memory_[static_cast<int>(array)][level];
  }

  Guarded memory_[kNumArrays][kMaxLevels];
};

// What calls of every op have.
inline RoiCall RoiCallOf(const Call& call, const Arrays& arrays) {
  return {
      call.sizes.maps, call.sizes.rois, call.sizes.bins,
      arrays.as<int32_t>(Array::kImageIndex),
      call.sizes.levels() > 1 ? arrays.as<int32_t>(Array::kLevel) : nullptr};
}

// Whether `got`, elements, has the same values, NaN equal to NaN, or values
// within the tolerances; says where not.
bool Same(const char* what, Element element, const void* got,
          const double* wanted, int64_t count,
          const double* tolerances = nullptr);

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_ARRAYS_H_
