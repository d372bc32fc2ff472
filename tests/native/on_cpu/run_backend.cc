#include "run_backend.h"

namespace jax_roipool::native {

const bool kSumsInOrder = true;

}  // namespace jax_roipool::native
