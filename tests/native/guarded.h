// Memory with a forbidden page at either end.
//
// A sanitizer knows what it has instrumented; the page stops everything, masked
// vector loads, memcpy and what the optimiser made. One mapping serves many
// runs, since making one takes longer than a small kernel.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_GUARDED_H_
#define JAX_ROIPOOL_TESTS_NATIVE_GUARDED_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace jax_roipool::native {

// Which end of the data lies at a forbidden page.
enum class Flush { kBegin, kEnd };

class Guarded {
 public:
  Guarded() = default;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { Release(); }

  // `bytes` of garbage, flush with a page; garbage lies beyond the other end
  // too, and CheckAround tells whether it still does. Ends a previous use.
  void* Place(size_t bytes, Flush flush) {
    if (bytes + kMargin > capacity_) Reserve(bytes + kMargin);
    bytes_ = bytes;
    flush_ = flush;
    data_ = flush == Flush::kEnd ? memory_ + capacity_ - bytes : memory_;
    std::memset(flush == Flush::kEnd ? data_ - kMargin : data_, kGarbage,
                bytes + kMargin);
    return data_;
  }
  void* Place(const void* source, size_t bytes, Flush flush) {
    Place(bytes, flush);
    if (bytes > 0) std::memcpy(data_, source, bytes);
    return data_;
  }

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

  bool Holds(const void* source) const {
    return bytes_ == 0 || std::memcmp(data_, source, bytes_) == 0;
  }
  bool AroundIsWhole() const {
    const unsigned char* margin =
        flush_ == Flush::kEnd ? data_ - kMargin : data_ + bytes_;
    return std::all_of(margin, margin + kMargin,
                       [](unsigned char byte) { return byte == kGarbage; });
  }

 private:
  // As a float a small number, as an index a large one.
  static constexpr unsigned char kGarbage = 0x45;
  static constexpr size_t kMargin = 64;

  void Reserve(size_t bytes) {
    Release();
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    capacity_ = (std::max<size_t>(bytes, 1 << 16) + page - 1) / page * page;
    mapped_ = capacity_ + 2 * page;
    void* whole = mmap(nullptr, mapped_, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED) Fail("mmap");
    whole_ = static_cast<unsigned char*>(whole);
    memory_ = whole_ + page;
    if (mprotect(memory_, capacity_, PROT_READ | PROT_WRITE) != 0) {
      Fail("mprotect");
    }
  }
  void Release() {
    if (whole_ != nullptr) munmap(whole_, mapped_);
    whole_ = nullptr;
    capacity_ = 0;
  }
  [[noreturn]] static void Fail(const char* what) {
    std::perror(what);
    std::abort();
  }

  unsigned char *whole_ = nullptr, *memory_ = nullptr, *data_ = nullptr;
  size_t mapped_ = 0, capacity_ = 0, bytes_ = 0;
  Flush flush_ = Flush::kEnd;
};

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_GUARDED_H_
