// Sharing a loop over somebody else's threads without waiting for them.

#ifndef JAX_ROIPOOL_CSRC_CPU_PARALLEL_H_
#define JAX_ROIPOOL_CSRC_CPU_PARALLEL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace jax_roipool::cpu {

// A loop whose turns any thread may take. The owner takes turns too, until none
// is left, and then waits only for turns that another thread has begun and is
// therefore running: never for a thread to become free. Where every
// thread sits in an owner like this one there still is progress; waiting for
// scheduled tasks would be a deadlock.
class SharedLoop {
 public:
  explicit SharedLoop(int64_t count) : count_(count) {}

  // Takes turns until none is left. `body` is not touched once all turns are
  // taken, so a helper that comes too late may hold a dangling one.
  template <typename Body>
  void TakeTurns(const Body& body) {
    for (;;) {
      const int64_t turn = next_.fetch_add(1, std::memory_order_relaxed);
      if (turn >= count_) return;
      body(turn);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        // The lock orders this with a waiter that has just looked at done_.
        std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_all();
      }
    }
  }

  void WaitForBegunTurns() {
    if (done_.load(std::memory_order_acquire) == count_) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] {
      return done_.load(std::memory_order_acquire) == count_;
    });
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// body(0) ... body(count - 1), on this thread and on up to `helpers` others
// that `schedule(task)` finds. Returns when all have run. `body` must not
// throw.
template <typename Schedule, typename Body>
void ParallelFor(int64_t count, int64_t helpers, Schedule&& schedule,
                 const Body& body) {
  if (count <= 0) return;
  if (helpers <= 0 || count == 1) {
    for (int64_t turn = 0; turn < count; ++turn) body(turn);
    return;
  }
  auto loop = std::make_shared<SharedLoop>(count);
  try {
    for (int64_t helper = 0; helper < helpers; ++helper) {
      schedule([loop, &body] { loop->TakeTurns(body); });
    }
  } catch (...) {
    // No memory for another task: the loop goes on with the helpers it has.
    // Leaving here would pull `body` from under them.
  }
  loop->TakeTurns(body);
  loop->WaitForBegunTurns();
}

}  // namespace jax_roipool::cpu

#endif  // JAX_ROIPOOL_CSRC_CPU_PARALLEL_H_
