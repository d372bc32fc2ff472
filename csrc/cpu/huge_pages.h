// Asking the system to map memory by large pages.

#ifndef JAX_ROIPOOL_CSRC_CPU_HUGE_PAGES_H_
#define JAX_ROIPOOL_CSRC_CPU_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jax_roipool::cpu {

constexpr uintptr_t kHugePage = uintptr_t{1} << 21;

// Asks for huge pages wherever whole ones fit. Only a hint; pages that are
// mapped already stay as they are.
inline void AdviseHugePages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t last = (begin + bytes) & ~(kHugePage - 1);
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#else
  (void)data;
  (void)bytes;
#endif
}

// The same for a large result or for scratch memory. It is usually fresh,
// and faulting it in by 4 KiB pages takes longer than pooling into it.
inline void PreferHugePages(void* data, size_t bytes) {
  // Below, glibc soon keeps and reuses the memory.
  constexpr size_t kWorthwhile = size_t{4} << 20;
  if (bytes >= kWorthwhile) AdviseHugePages(data, bytes);
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_HUGE_PAGES_H_
