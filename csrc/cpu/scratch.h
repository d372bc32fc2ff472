// Scratch: the memory that a thread has for one unit of work after another.

#ifndef JAX_ROIPOOL_CSRC_CPU_SCRATCH_H_
#define JAX_ROIPOOL_CSRC_CPU_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#include "core/sizes.h"
#include "cpu/huge_pages.h"

namespace jax_roipool::cpu {

// Memory of one size, 64-byte aligned, lent to one thread at a time and kept
// until all work is done: fresh for every unit of work, it would be faulted in,
// page by page, for each.
class ScratchPool {
 public:
  explicit ScratchPool(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {}
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  ~ScratchPool() {
    while (free_ != nullptr) {
      Free* next = free_->next;
      ::operator delete(free_, kAlign);
      free_ = next;
    }
  }

  // Scratch memory for as long as this lives; null where there is no memory, or
  // none is needed.
  class Lease {
   public:
    explicit Lease(ScratchPool* pool) : pool_(pool), memory_(pool->Take()) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { pool_->GiveBack(memory_); }
    void* get() const { return memory_; }

   private:
    ScratchPool* pool_;
    void* memory_;
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
    void* memory = ::operator new(bytes_, kAlign, std::nothrow);
    if (memory != nullptr) PreferHugePages(memory, bytes_);
    return memory;
  }

  void GiveBack(void* memory) {
    if (memory == nullptr) return;
    std::lock_guard<std::mutex> lock(mutex_);
    free_ = new (memory) Free{free_};
  }

  static constexpr std::align_val_t kAlign{64};
  const size_t bytes_;
  std::mutex mutex_;
  Free* free_ = nullptr;
};

// Cuts scratch memory into pieces of whole cache lines. Without memory it only
// adds up what they need.
class ScratchCutter {
 public:
  explicit ScratchCutter(void* memory)
      : memory_(static_cast<unsigned char*>(memory)) {}

  // Null where no byte is wanted, or there is no memory.
  template <typename T = void>
  T* Cut(int64_t bytes) {
    unsigned char* piece =
        memory_ != nullptr && bytes > 0 ? memory_ + bytes_ : nullptr;
    bytes_ += CeilDiv(bytes, kLine) * kLine;
    return reinterpret_cast<T*>(piece);
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kLine = 64;
  unsigned char* const memory_;
  int64_t bytes_ = 0;
};

// What one thread needs for any unit of a plan, whose CutScratch cuts it.
template <class Plan>
int64_t ScratchBytes(const Plan& plan) {
  ScratchCutter cutter(nullptr);
  plan.CutScratch(&cutter);
  return cutter.bytes();
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_SCRATCH_H_
