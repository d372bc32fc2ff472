#include "run_backend.h"

namespace jax_roipool::native {

const bool kSumsInOrder = false;

}  // namespace jax_roipool::native
