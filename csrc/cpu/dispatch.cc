#include "cpu/dispatch.h"

#include <atomic>

namespace jax_roipool::cpu {
namespace {

bool Supported(Isa isa) {
  switch (isa) {
#if defined(JAX_ROIPOOL_X86)
    // GCC and Clang answer for the operating system too: registers that it does
    // not save count as absent.
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2");
#endif
    default:
      return isa == Isa::kBaseline;
  }
}

std::atomic<Isa>& Current() {
  static std::atomic<Isa> current{SupportedIsas().front()};
  return current;
}

}  // namespace

const char* NameOf(Isa isa) {
  constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(isa)];
}

std::vector<Isa> BuiltIsas() {
#if defined(JAX_ROIPOOL_X86)
  return {Isa::kAvx512, Isa::kAvx2, Isa::kBaseline};
#else
  return {Isa::kBaseline};
#endif
}

const std::vector<Isa>& SupportedIsas() {
  static const auto* const isas = [] {
    auto* supported = new std::vector<Isa>;
    for (const Isa isa : BuiltIsas()) {
      if (Supported(isa)) supported->push_back(isa);
    }
    return supported;
  }();
  return *isas;
}

bool SetIsa(std::string_view name) {
  for (const Isa isa : SupportedIsas()) {
    if (name == NameOf(isa)) {
      Current().store(isa, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

Isa CurrentIsa() { return Current().load(std::memory_order_relaxed); }

}  // namespace jax_roipool::cpu
