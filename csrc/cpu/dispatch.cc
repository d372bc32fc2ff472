#include "cpu/dispatch.h"

#include <atomic>

namespace jax_roipool::cpu {
namespace {

struct Target {
  const KernelTable* table;
  bool supported;
};

std::vector<Target> AllTargets() {
  return {
#if defined(JAX_ROIPOOL_X86)
      // GCC and Clang answer for the operating system too: registers that it
      // does not save count as absent.
      {&avx512::kTable, __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl")},
      {&avx2::kTable, static_cast<bool>(__builtin_cpu_supports("avx2"))},
#endif
      {&baseline::kTable, true},
  };
}

std::atomic<const KernelTable*>& Current() {
  static std::atomic<const KernelTable*> current{SupportedTargets().front()};
  return current;
}

}  // namespace

const std::vector<const KernelTable*>& SupportedTargets() {
  static const auto* const targets = [] {
    auto* supported = new std::vector<const KernelTable*>;
    for (const Target& target : AllTargets()) {
      if (target.supported) supported->push_back(target.table);
    }
    return supported;
  }();
  return *targets;
}

std::vector<std::string> BuiltTargets() {
  std::vector<std::string> names;
  for (const Target& target : AllTargets()) {
    names.emplace_back(target.table->name);
  }
  return names;
}

bool SetTarget(std::string_view name) {
  for (const KernelTable* table : SupportedTargets()) {
    if (name == table->name) {
      Current().store(table, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

const KernelTable& CurrentTarget() {
  return *Current().load(std::memory_order_relaxed);
}

}  // namespace jax_roipool::cpu
