// The CPU's handlers, called as XLA calls them, from XLA's frames and threads
// (xla.h), for sanitizers and for the coverage of lines.
//
//   driver cases FILE   the calls of tests/cases.py, which cases.py wrote there
//   driver threads      large calls: many at once, any number of threads, calls
//                       from those threads
//   driver malformed    frames that no right program makes (malformed.cc)
//   driver limits       maps and results past 2^31 elements (limits.cc)
//   driver memory       calls for which there is no memory (malformed.cc); not
//                       under ASan or TSan, whose operator new does not throw

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "arrays.h"
#include "call.h"
#include "core/subnormals.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "frames.h"
#include "op.h"
#include "sizes.h"
#include "xla.h"

namespace jax_roipool::native {
namespace {

void ForEachIsa(const std::function<void()>& run) {
  for (const cpu::Isa isa : cpu::BuiltIsas()) {
    if (cpu::SetIsa(cpu::NameOf(isa))) run();
  }
  cpu::SetIsa(cpu::NameOf(cpu::SupportedIsas().front()));
}

// --- driver cases

template <typename T>
bool Read(std::istream& file, std::vector<T>* values, int64_t count) {
  values->resize(static_cast<size_t>(count));
  file.read(reinterpret_cast<char*>(values->data()),
            static_cast<std::streamsize>(values->size() * sizeof(T)));
  return static_cast<bool>(file);
}

int RunCases(const char* path) {
  std::ifstream file(path, std::ios::binary);
  ThreadPool threads(3);
  Arrays arrays;
  int64_t cases = 0, calls = 0;
  std::vector<int64_t> sizes;
  std::vector<float> scale;
  while (Read(file, &sizes, 10)) {
    Call call{};
    call.sizes = Sizes(
        static_cast<Layout>(sizes[0]), static_cast<Element>(sizes[1]), sizes[2],
        sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9]);
    const Sizes& p = call.sizes;
    const int64_t rois = p.rois.count();
    if (!Read(file, &scale, 2) || !Read(file, &call.boxes, 4 * rois) ||
        !Read(file, &call.image_index, rois) ||
        !Read(file, &call.map,
              p.map_numbers() * ElementBytes(p.maps.element))) {
      Fail(std::string(path) + " ends within a case");
    }
    call.scales[0] = {scale[0], scale[1]};
    call.seed = static_cast<uint64_t>(cases);
    call.flush = Flush::kEnd;
    Finish({static_cast<uint8_t>(cases), static_cast<uint8_t>(cases / 8)},
           &call);
    ForEachIsa([&] {
      for (const Op& op : Ops()) {
        RunOp(call, op, &threads, &arrays);
        ++calls;
      }
    });
    ++cases;
  }
  if (cases == 0) Fail(std::string(path) + " holds no case");
  std::printf("cases: %lld, on every instruction set %lld calls\n",
              static_cast<long long>(cases), static_cast<long long>(calls));
  return 0;
}

// --- driver threads

// Calls that are worth several helpers.
std::vector<Call> LargeCalls() {
  std::vector<Call> calls;
  for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
    for (const Element element : {Element::kFloat32, Element::kBFloat16}) {
      const Sizes sizes(layout, element, 1, 3, 29, 40, 70, 30, 5, 5);
      Random random(calls.size());
      std::vector<uint8_t> bytes(1000);
      for (uint8_t& byte : bytes) {
        byte = static_cast<uint8_t>(random.Below(200));
      }
      bytes[0] = bytes[1] = 0;  // scales of 1
      Reader reader(bytes.data(), bytes.size());
      calls.push_back(MakeCallOf(sizes, &reader, true));
    }
  }
  return calls;
}

int RunThreads() {
  const std::vector<Call> calls = LargeCalls();
  const auto run_all = [&calls](ThreadPool* threads, size_t first) {
    const SubnormalsKept to_compare;
    Arrays arrays;
    for (size_t i = 0; i < calls.size(); ++i) {
      for (const Op& op : Ops()) {
        RunOp(calls[(first + i) % calls.size()], op, threads, &arrays);
      }
    }
    for (const Framed& op : Registered<Framed>::All()) op.run_right(threads);
  };
  ForEachIsa([&] {
    std::thread([&] { run_all(nullptr, 0); }).join();  // no threads at all
  });

  int64_t scheduled = 0;
  for (const int size : {0, 1, 5}) {
    ThreadPool threads(size);
    std::vector<std::thread> callers;
    for (size_t caller = 0; caller < 2; ++caller) {
      callers.emplace_back(run_all, &threads, caller);
    }
    for (std::thread& caller : callers) caller.join();
    if (size > 0) scheduled += threads.scheduled();
  }
  if (scheduled == 0) Fail("no call was worth a helper");

  // More calls than threads, each on one of them: who waits for a thread to
  // become free waits for ever.
  {
    constexpr int size = 2;
    ThreadPool threads(size);
    struct Shared {
      std::function<void()> run;
      std::atomic<int> left;
      std::mutex mutex;
      std::condition_variable done;
    } shared{[&] { run_all(&threads, 0); }, {size + 1}, {}, {}};
    for (int i = 0; i < size + 1; ++i) {
      threads.Schedule(
          [](void* data) {
            auto* shared = static_cast<Shared*>(data);
            shared->run();
            std::lock_guard<std::mutex> lock(shared->mutex);
            if (--shared->left == 0) shared->done.notify_all();
          },
          &shared);
    }
    std::unique_lock<std::mutex> lock(shared.mutex);
    shared.done.wait(lock, [&shared] { return shared.left == 0; });
  }
  // A threads that has no memory for a task: the loop goes on with those it
  // has.
  std::atomic<int64_t> turns{0};
  int64_t tasks = 0;
  cpu::ParallelFor(
      1000, 3,
      [&tasks](const auto&) {
        if (++tasks == 2) throw std::bad_alloc();
      },
      [&turns](int64_t) { ++turns; });
  if (turns != 1000 || tasks != 2) Fail("a loop that lost its helpers");
  std::printf("threads: %lld tasks by callers\n",
              static_cast<long long>(scheduled));
  return 0;
}

int Main(int count, char** arguments) {
  const std::string part = count > 1 ? arguments[1] : "";
  if (part == "cases" && count == 3) return RunCases(arguments[2]);
  if (part == "threads") return RunThreads();
  if (part == "malformed") return RunMalformed();
  if (part == "limits") return RunLimits();
  if (part == "memory") return RunMemory();
  std::fprintf(stderr, "driver cases FILE|threads|malformed|limits|memory\n");
  return 2;
}

}  // namespace
}  // namespace jax_roipool::native

int main(int count, char** arguments) {
  return jax_roipool::native::Main(count, arguments);
}
