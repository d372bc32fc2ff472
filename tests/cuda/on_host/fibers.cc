#include "fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace jax_roipool::cuda_on_host {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int64_t kCanaryBytes = 4096;
constexpr unsigned char kGarbage = 0xa5;

std::atomic<uint64_t> next_turn{0};
thread_local uint64_t turn = 0;
std::atomic<int64_t> blocks_run{0};

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  State state;
  int operation;
  unsigned mask;
  uint64_t value;
  uint64_t received[kWarp];
};

// One launch's blocks, one after another, on the calling thread.
class Launch {
 public:
  Launch(int64_t blocks, int threads, int64_t shared_bytes,
         const std::function<void()>& thread, uint64_t seed)
      : fibers_(threads),
        shared_(shared_bytes + kCanaryBytes + 16),
        shared_bytes_(shared_bytes),
        thread_(thread),
        random_(seed) {
    grid_.x = static_cast<unsigned>(blocks);
  }

  std::string RunAll() {
    std::vector<unsigned> order(grid_.x);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random_);
    for (unsigned block : order) {
      block_.x = block;
      RunBlock();
      if (!failure_.empty()) break;
    }
    return failure_;
  }

  void WaitForBlock() {
    running().state = State::kAtBlock;
    if (std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& fiber) {
          return fiber.state == State::kAtBlock;
        })) {
      for (Fiber& fiber : fibers_) fiber.state = State::kReady;
    }
    Yield();
  }

  const uint64_t* WaitForWarp(int operation, unsigned mask, uint64_t value) {
    Fiber& self = running();
    self.state = State::kAtWarp;
    self.operation = operation;
    self.mask = mask;
    self.value = value;
    Fiber* warp = &fibers_[running_ / kWarp * kWarp];
    bool all = true;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      all = all && warp[lane].state == State::kAtWarp &&
            warp[lane].operation == operation && warp[lane].mask == mask;
    }
    if (all) {
      uint64_t values[kWarp] = {};
      for (int lane = 0; lane < kWarp; ++lane) {
        if (mask >> lane & 1) values[lane] = warp[lane].value;
      }
      for (int lane = 0; lane < kWarp; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        std::memcpy(warp[lane].received, values, sizeof(values));
        warp[lane].state = State::kReady;
      }
    }
    Yield();
    return self.received;
  }

  unsigned char* shared() {
    const auto at = reinterpret_cast<uintptr_t>(shared_.data());
    return shared_.data() + (-at & 15);
  }
  Index thread_index() const { return {static_cast<unsigned>(running_)}; }
  Index block() const { return block_; }
  Index grid() const { return grid_; }
  void RunThread() {
    thread_();
    running().state = State::kDone;
    Yield();
  }

 private:
  Fiber& running() { return fibers_[running_]; }
  void Yield() { swapcontext(&running().context, &scheduler_); }
  void RunBlock();

  std::vector<Fiber> fibers_;
  std::vector<unsigned char> shared_;
  const int64_t shared_bytes_;
  const std::function<void()>& thread_;
  std::mt19937_64 random_;
  ucontext_t scheduler_;
  size_t running_ = 0;
  Index block_{}, grid_{};
  std::string failure_;
};

thread_local Launch* current = nullptr;

void Entry() { current->RunThread(); }

void Launch::RunBlock() {
  std::memset(shared_.data(), kGarbage, shared_.size());
  for (Fiber& fiber : fibers_) {
    fiber.state = State::kReady;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Entry, 0);
  }
  std::vector<size_t> ready;
  for (;;) {
    ready.clear();
    for (size_t i = 0; i < fibers_.size(); ++i) {
      if (fibers_[i].state == State::kReady) ready.push_back(i);
    }
    if (ready.empty()) break;
    // All that are ready have a turn, in an order of their own each time.
    std::shuffle(ready.begin(), ready.end(), random_);
    for (size_t i : ready) {
      running_ = i;
      swapcontext(&scheduler_, &fibers_[i].context);
    }
  }
  blocks_run.fetch_add(1, std::memory_order_relaxed);
  for (size_t i = 0; i < fibers_.size(); ++i) {
    if (fibers_[i].state != State::kDone) {
      failure_ = "thread " + std::to_string(i) + " of block " +
                 std::to_string(block_.x) + " waits for ever";
      return;
    }
  }
  for (int64_t i = 0; i < kCanaryBytes; ++i) {
    if (shared()[shared_bytes_ + i] != kGarbage) {
      failure_ = "block " + std::to_string(block_.x) +
                 " wrote beyond its shared memory";
      return;
    }
  }
}

}  // namespace

Index ThreadIndex() { return current->thread_index(); }
Index BlockIndex() { return current->block(); }
Index GridSize() { return current->grid(); }
unsigned char* SharedMemory() { return current->shared(); }
void WaitForBlock() { current->WaitForBlock(); }
const uint64_t* WaitForWarp(int operation, unsigned mask, uint64_t value) {
  return current->WaitForWarp(operation, mask, value);
}

std::string Run(int64_t blocks, int threads, int64_t shared_bytes,
                const std::function<void()>& thread) {
  if (blocks < 1 || blocks > 0x7fffffff || threads < 1 || threads > 1024 ||
      threads % kWarp != 0) {
    return "a grid of " + std::to_string(blocks) + " blocks of " +
           std::to_string(threads) + " threads";
  }
  Launch launch(blocks, threads, shared_bytes, thread, turn);
  current = &launch;
  const std::string failure = launch.RunAll();
  current = nullptr;
  return failure;
}

void Seed(uint64_t value) { next_turn = value; }
uint64_t NextTurn() { return turn = next_turn++; }
int64_t BlocksRun() { return blocks_run; }

}  // namespace jax_roipool::cuda_on_host
