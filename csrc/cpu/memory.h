// Memory that a handler asks the system for, or asks it to map otherwise.

#ifndef JAX_ROIPOOL_CSRC_CPU_MEMORY_H_
#define JAX_ROIPOOL_CSRC_CPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jax_roipool::cpu {

// A 64-byte aligned block, or null where there is no memory (or no need).
class Block {
 public:
  explicit Block(int64_t bytes)
      : memory_(bytes > 0 ? ::operator new(static_cast<size_t>(bytes), kAlign,
                                           std::nothrow)
                          : nullptr) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { ::operator delete(memory_, kAlign); }
  void* get() const { return memory_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  void* memory_;
};

// Asks for huge pages under a large result. Its memory is usually fresh, and
// faulting it in by 4 KiB pages takes longer than pooling into it. Only a hint;
// pages that are mapped already stay as they are.
inline void PreferHugePages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  // Below, glibc soon keeps and reuses the memory.
  constexpr size_t kWorthwhile = size_t{4} << 20;
  if (bytes < kWorthwhile) return;
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

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_MEMORY_H_
