// Which instruction set the kernels use: the best that this CPU has, or the one
// that was forced.

#ifndef JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_
#define JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"

namespace jax_roipool::cpu {

// The tables that are built in and that this CPU can run, best first.
const std::vector<const KernelTable*>& SupportedTargets();

// Names of all tables that are built in, best first.
std::vector<std::string> BuiltTargets();

// Makes `name` the target of all later calls; false, and no change, where it is
// not supported here.
bool SetTarget(std::string_view name);

// The table of this call. Read once per call, never within one.
const KernelTable& CurrentTarget();

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_DISPATCH_H_
