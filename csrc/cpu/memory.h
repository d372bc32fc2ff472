// Memory that a handler asks the system for, or asks it to map otherwise.

#ifndef JAX_ROIPOOL_CSRC_CPU_MEMORY_H_
#define JAX_ROIPOOL_CSRC_CPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

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

// The same for a large result or block of scratch memory. It is usually fresh,
// and faulting it in by 4 KiB pages takes longer than pooling into it.
inline void PreferHugePages(void* data, size_t bytes) {
  // Below, glibc soon keeps and reuses the memory.
  constexpr size_t kWorthwhile = size_t{4} << 20;
  if (bytes >= kWorthwhile) AdviseHugePages(data, bytes);
}

// Blocks of one size, 64-byte aligned, lent to one thread at a time and kept
// until all work is done: a block that is fresh for every unit of work would be
// faulted in, page by page, for each.
class BlockPool {
 public:
  explicit BlockPool(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {}
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    while (free_ != nullptr) {
      Free* next = free_->next;
      ::operator delete(free_, kAlign);
      free_ = next;
    }
  }

  // A block for as long as this lives; null where there is no memory, or none
  // is needed.
  class Lease {
   public:
    explicit Lease(BlockPool* pool) : pool_(pool), block_(pool->Take()) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { pool_->GiveBack(block_); }
    void* get() const { return block_; }

   private:
    BlockPool* pool_;
    void* block_;
  };

 private:
  struct Free {
    Free* next;
  };

  void* Take() {
    if (bytes_ == 0) return nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (free_ != nullptr) return std::exchange(free_, free_->next);
    }
    void* block = ::operator new(bytes_, kAlign, std::nothrow);
    if (block != nullptr) PreferHugePages(block, bytes_);
    return block;
  }

  void GiveBack(void* block) {
    if (block == nullptr) return;
    std::lock_guard<std::mutex> lock(mutex_);
    free_ = new (block) Free{free_};
  }

  static constexpr std::align_val_t kAlign{64};
  const size_t bytes_;
  std::mutex mutex_;
  Free* free_ = nullptr;
};

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_MEMORY_H_
