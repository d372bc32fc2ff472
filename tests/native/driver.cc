// The CPU's handlers, called as XLA calls them, from XLA's frames and pools of
// threads (xla.h), for sanitizers and for the coverage of lines.
//
//   driver cases FILE   the calls of tests/cases.py, which cases.py wrote there
//   driver threads      large calls: many at once, pools of any size, calls
//   from
//                       the pool's own threads
//   driver lies         frames that no right program makes
//   driver limits       maps and results past 2^31 elements (limits.cc)
//   driver memory       calls for which there is no memory; not under ASan or
//                       TSan, whose operator new does not throw

#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "call.h"
#include "cpu/dispatch.h"
#include "cpu/handlers.h"
#include "cpu/parallel.h"
#include "definition.h"
#include "limits.h"
#include "subnormals.h"
#include "xla.h"

namespace jax_roipool::native {
namespace {

enum Op { kPool, kPoolArgmax, kGather, kScatter };

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

XLA_FFI_DataType TypeOf(Element element) {
  constexpr XLA_FFI_DataType kTypes[] = {
      XLA_FFI_DataType_F16, XLA_FFI_DataType_BF16, XLA_FFI_DataType_F32,
      XLA_FFI_DataType_F64};
  return kTypes[static_cast<int>(element)];
}

// --- Right calls

// The arrays of one call.
struct Arrays {
  Guarded map, boxes, image, cells, cotangent, pooled, argmax, gradient;
};

Frame FrameOf(const Call& call, Op op, Arrays* arrays) {
  const Problem& p = call.problem;
  const bool last = p.layout == Layout::kNHWC;
  const XLA_FFI_DataType type = TypeOf(p.element);
  std::vector<int64_t> map{p.groups, p.images, p.height, p.width};
  map.insert(last ? map.end() : map.begin() + 2, p.channels);
  std::vector<int64_t> pooled{p.groups, p.rois, p.pooled_height,
                              p.pooled_width};
  pooled.insert(last ? pooled.end() : pooled.begin() + 2, p.channels);
  const auto place = [&](Guarded* memory, const auto& values) {
    return memory->Place(values.data(), values.size() * sizeof(values[0]),
                         call.flush);
  };
  const auto result = [&](Guarded* memory, size_t bytes) {
    return memory->Place(bytes, call.flush);
  };
  const Buffer image{XLA_FFI_DataType_S32,
                     place(&arrays->image, call.image),
                     {p.groups, p.rois}};
  Frame frame;
  if (op == kPool || op == kPoolArgmax) {
    frame.operands = {{type, place(&arrays->map, call.map), map},
                      {XLA_FFI_DataType_F32,
                       place(&arrays->boxes, call.boxes),
                       {p.groups, p.rois, 4}},
                      image};
    frame.results = {
        {type, result(&arrays->pooled, call.cotangent.size()), pooled}};
    if (op == kPoolArgmax) {
      frame.results.push_back({XLA_FFI_DataType_S32,
                               result(&arrays->argmax, call.argmax.size() * 4),
                               pooled});
    }
  } else {
    const Buffer cells{XLA_FFI_DataType_S32, place(&arrays->cells, call.cells),
                       pooled};
    if (op == kGather) {
      frame.operands = {
          {type, place(&arrays->map, call.map), map}, image, cells};
      frame.results = {
          {type, result(&arrays->pooled, call.cotangent.size()), pooled}};
    } else {
      frame.operands = {
          {type, place(&arrays->cotangent, call.cotangent), pooled},
          image,
          cells};
      frame.results = {{type, result(&arrays->gradient, call.map.size()), map}};
    }
  }
  frame.attributes = {{"layout", std::string(last ? "NHWC" : "NCHW")}};
  if (op == kPool || op == kPoolArgmax) {
    frame.attributes.push_back({"scale_height", call.scale.height});
    frame.attributes.push_back({"scale_width", call.scale.width});
  }
  return frame;
}

// Calls the handler of `op` and compares.
void RunOp(const Call& call, Op op, ThreadPool* pool, Arrays* arrays) {
  const Handler& handler = cpu::kHandlers[op];
  const Frame frame = FrameOf(call, op, arrays);
  const Answer answer = Invoke(handler.function, pool, frame);
  const Element element = call.problem.element;
  bool right = answer.code == XLA_FFI_Error_Code_OK;
  if (op == kPool || op == kPoolArgmax) {
    right = right &&
            Same(handler.op, element, arrays->pooled.data(), call.pooled) &&
            arrays->pooled.AroundIsWhole();
  }
  if (op == kPoolArgmax) {
    right = right &&
            Same(handler.op, arrays->argmax.as<int32_t>(), call.argmax) &&
            arrays->argmax.AroundIsWhole();
  }
  if (op == kGather) {
    right = right &&
            Same(handler.op, element, arrays->pooled.data(), call.gathered) &&
            arrays->pooled.AroundIsWhole();
  }
  if (op == kScatter) {
    right = right &&
            Same(handler.op, element, arrays->gradient.data(), call.gradient) &&
            arrays->gradient.AroundIsWhole();
  }
  if (!right) {
    Fail(std::string(handler.op) + " on " + cpu::CurrentTarget().name + ": " +
         call.Describe() + ": " + answer.message);
  }
}

void ForEachTarget(const std::function<void()>& run) {
  for (const std::string& name : cpu::BuiltTargets()) {
    if (cpu::SetTarget(name)) run();
  }
  cpu::SetTarget(cpu::SupportedTargets().front()->name);
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
  ThreadPool pool(3);
  Arrays arrays;
  int64_t cases = 0, calls = 0;
  std::vector<int64_t> sizes;
  std::vector<float> scale;
  while (Read(file, &sizes, 10)) {
    Call call{};
    Problem& p = call.problem;
    p.layout = static_cast<Layout>(sizes[0]);
    p.element = static_cast<Element>(sizes[1]);
    p.groups = sizes[2];
    p.images = sizes[3];
    p.height = sizes[4];
    p.width = sizes[5];
    p.channels = sizes[6];
    p.rois = sizes[7];
    p.pooled_height = sizes[8];
    p.pooled_width = sizes[9];
    const int64_t rois = definition::RoiCount(p);
    if (!Read(file, &scale, 2) || !Read(file, &call.boxes, 4 * rois) ||
        !Read(file, &call.image, rois) ||
        !Read(file, &call.map,
              definition::FeatureCount(p) * ElementBytes(p.element))) {
      Fail(std::string(path) + " ends within a case");
    }
    call.scale = {scale[0], scale[1]};
    call.seed = static_cast<uint64_t>(cases);
    call.flush = Flush::kEnd;
    Finish({static_cast<uint8_t>(cases), static_cast<uint8_t>(cases / 8)},
           &call);
    ForEachTarget([&] {
      for (const Op op : {kPool, kPoolArgmax, kGather, kScatter}) {
        RunOp(call, op, &pool, &arrays);
        ++calls;
      }
    });
    ++cases;
  }
  if (cases == 0) Fail(std::string(path) + " holds no case");
  std::printf("cases: %lld, on every target %lld calls\n",
              static_cast<long long>(cases), static_cast<long long>(calls));
  return 0;
}

// --- driver threads

// Calls that are worth several helpers.
std::vector<Call> LargeCalls() {
  std::vector<Call> calls;
  for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
    for (const Element element : {Element::kFloat32, Element::kBFloat16}) {
      const Problem problem{layout, element, 1, 3, 29, 40, 70, 30, 5, 5};
      Random random(calls.size());
      std::vector<uint8_t> bytes(1000);
      for (uint8_t& byte : bytes) {
        byte = static_cast<uint8_t>(random.Below(200));
      }
      bytes[0] = bytes[1] = 0;  // scales of 1
      Reader reader(bytes.data(), bytes.size());
      calls.push_back(MakeCallOf(problem, &reader, true));
    }
  }
  return calls;
}

int RunThreads() {
  const std::vector<Call> calls = LargeCalls();
  const auto run_all = [&calls](ThreadPool* pool, size_t first) {
    const SubnormalsKept to_compare;
    Arrays arrays;
    for (size_t i = 0; i < calls.size(); ++i) {
      for (const Op op : {kPool, kPoolArgmax, kGather, kScatter}) {
        RunOp(calls[(first + i) % calls.size()], op, pool, &arrays);
      }
    }
  };
  ForEachTarget([&] {
    std::thread([&] { run_all(nullptr, 0); }).join();  // no pool at all
  });

  int64_t scheduled = 0;
  for (const int size : {0, 1, 5}) {
    ThreadPool pool(size);
    std::vector<std::thread> callers;
    for (size_t caller = 0; caller < 2; ++caller) {
      callers.emplace_back(run_all, &pool, caller);
    }
    for (std::thread& caller : callers) caller.join();
    if (size > 0) scheduled += pool.scheduled();
  }
  if (scheduled == 0) Fail("no call was worth a helper");

  // More calls than threads, each on one of them: who waits for a thread to
  // become free waits for ever.
  {
    constexpr int size = 2;
    ThreadPool pool(size);
    struct Shared {
      std::function<void()> run;
      std::atomic<int> left;
      std::mutex mutex;
      std::condition_variable done;
    } shared{[&] { run_all(&pool, 0); }, {size + 1}, {}, {}};
    for (int i = 0; i < size + 1; ++i) {
      pool.Schedule(
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
  // A pool that has no memory for a task: the loop goes on with those it has.
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

// --- driver lies

Call SmallCall(Layout layout = Layout::kNHWC) {
  const Problem problem{layout, Element::kFloat32, 2, 3, 4, 5, 3, 6, 2, 2};
  Reader nothing(nullptr, 0);
  return MakeCallOf(problem, &nothing, true);
}

int64_t lies = 0;

// The handler must refuse `frame`, in words.
void DemandRefusal(
    Op op, const Frame& frame, const std::string& what,
    XLA_FFI_Error_Code code = XLA_FFI_Error_Code_INVALID_ARGUMENT) {
  ++lies;
  ThreadPool pool(0);
  const Answer answer = Invoke(cpu::kHandlers[op].function, &pool, frame);
  const bool worded = code == XLA_FFI_Error_Code_INVALID_ARGUMENT ||
                      answer.message.find("no memory for") != std::string::npos;
  if (answer.code != code || answer.message.empty() || !worded) {
    Fail(std::string(cpu::kHandlers[op].op) + ", " + what + ": answered " +
         std::to_string(answer.code) + ", " + answer.message);
  }
}

void LieAboutBuffers(Op op, const Frame& right) {
  const bool nhwc = std::get<std::string>(right.attributes[0].value) == "NHWC";
  constexpr int64_t kSizes[] = {-1, std::numeric_limits<int64_t>::min(),
                                std::numeric_limits<int64_t>::max(),
                                int64_t{1} << 31, int64_t{1} << 62};
  constexpr XLA_FFI_DataType kTypes[] = {
      XLA_FFI_DataType_INVALID, XLA_FFI_DataType_PRED, XLA_FFI_DataType_S64,
      XLA_FFI_DataType_U32,     XLA_FFI_DataType_C64,  XLA_FFI_DataType_F8E5M2,
      XLA_FFI_DataType_F64,     XLA_FFI_DataType_F16,  XLA_FFI_DataType_TOKEN};
  for (const bool result : {false, true}) {
    const auto buffers = [result](Frame* frame) {
      return result ? &frame->results : &frame->operands;
    };
    Frame frame = right;
    const size_t count = buffers(&frame)->size();
    buffers(&frame)->push_back(buffers(&frame)->back());
    DemandRefusal(op, frame, "one buffer too many");
    frame = right;
    buffers(&frame)->pop_back();
    DemandRefusal(op, frame, "one buffer too few");
    for (size_t i = 0; i < count; ++i) {
      const std::string name =
          (result ? "result " : "operand ") + std::to_string(i);
      for (const XLA_FFI_DataType type : kTypes) {
        frame = right;
        (*buffers(&frame))[i].type = type;
        DemandRefusal(op, frame, name + " of type " + std::to_string(type));
      }
      // How many images a map has and how large they are is known from it
      // alone; how many bins there are, to pooling, from its result.
      const bool map = op == kScatter ? result : !result && i == 0;
      const size_t rank = (*buffers(&frame))[i].dims.size();
      for (size_t wrong = 0; wrong < rank + 3; ++wrong) {
        if (wrong == rank || (map && wrong == 4)) continue;  // no groups
        frame = right;
        (*buffers(&frame))[i].dims.resize(wrong, 1);
        DemandRefusal(op, frame, name + " of rank " + std::to_string(wrong));
      }
      for (size_t dim = 0; dim < rank; ++dim) {
        for (const int64_t size : kSizes) {
          frame = right;
          (*buffers(&frame))[i].dims[dim] = size;
          DemandRefusal(op, frame,
                        name + ", dimension " + std::to_string(dim) + " is " +
                            std::to_string(size));
        }
        const bool channels = dim == (nhwc ? rank - 1 : 2);
        if ((map && dim > 0 && !channels) ||
            (op == kPool && result && dim > 1 && !channels)) {
          continue;
        }
        frame = right;
        ++(*buffers(&frame))[i].dims[dim];
        DemandRefusal(
            op, frame,
            name + ", dimension " + std::to_string(dim) + " is one more");
      }
    }
  }
  // All agree, on what is no type or no size.
  Frame frame = right;
  for (Buffer* buffer : {&frame.operands[0], &frame.results[0]}) {
    buffer->type = XLA_FFI_DataType_S32;
  }
  DemandRefusal(op, frame, "integers");
  for (const int64_t size : kSizes) {
    frame = right;  // groups
    for (auto* buffers : {&frame.operands, &frame.results}) {
      for (Buffer& buffer : *buffers) buffer.dims[0] = size;
    }
    if (size != int64_t{1} << 31) DemandRefusal(op, frame, "many groups");
  }
  Frame bins = right;
  Buffer* of_bins[] = {op == kScatter ? &bins.operands[0] : &bins.results[0],
                       op == kPool         ? nullptr
                       : op == kPoolArgmax ? &bins.results[1]
                                           : &bins.operands[2]};
  for (const int64_t size : {int64_t{0}, (int64_t{1} << 24) + 1}) {
    for (Buffer* buffer : of_bins) {
      if (buffer != nullptr) buffer->dims[nhwc ? 2 : 3] = size;
    }
    DemandRefusal(op, bins, std::to_string(size) + " rows of bins");
  }
}

void LieAboutAttributes(Op op, const Frame& right) {
  const size_t count = right.attributes.size();
  Frame frame = right;
  frame.attributes.push_back({"zzz", int64_t{1}});
  DemandRefusal(op, frame, "one attribute too many");
  const decltype(Attribute::value) values[] = {
      1.0,
      int64_t{1},
      std::string("nhwc"),
      std::string(),
      std::string(1 << 20, 'N'),
      0.0f,
      -1.0f,
      std::numeric_limits<float>::quiet_NaN(),
      std::numeric_limits<float>::infinity()};
  for (size_t i = 0; i < count; ++i) {
    const std::string name = right.attributes[i].name;
    frame = right;
    frame.attributes.erase(frame.attributes.begin() + static_cast<long>(i));
    DemandRefusal(op, frame, "no " + name);
    frame = right;
    frame.attributes[i].name += "s";
    DemandRefusal(op, frame, name + "s");
    for (const auto& value : values) {
      frame = right;
      frame.attributes[i].value = value;
      DemandRefusal(op, frame, name + " of another type or value");
    }
  }
}

int RunLies() {
  for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
    const Call call = SmallCall(layout);
    Arrays arrays;
    for (const Op op : {kPool, kPoolArgmax, kGather, kScatter}) {
      RunOp(call, op, nullptr, &arrays);
      const Frame right = FrameOf(call, op, &arrays);
      LieAboutBuffers(op, right);
      LieAboutAttributes(op, right);
    }
  }
  if (cpu::SetTarget("sse5") || cpu::SetTarget("")) Fail("no such target");
  std::printf("lies: %lld, all refused\n", static_cast<long long>(lies));
  return 0;
}

// --- driver memory

// Maps without cells take no memory; neither may what is planned for them.
void DemandNothingForEmptyMaps() {
  const Call call = SmallCall();
  Arrays arrays;
  for (const Op op : {kPool, kGather}) {
    Frame frame = FrameOf(call, op, &arrays);
    frame.operands[0].dims = {2, (int64_t{1} << 31) - 1, 0, 5, 3};
    ThreadPool pool(0);
    const Answer answer = Invoke(cpu::kHandlers[op].function, &pool, frame);
    const std::vector<double> zeros(call.pooled.size(), 0);
    if (answer.code != XLA_FFI_Error_Code_OK ||
        !Same("no cells", Element::kFloat32, arrays.pooled.data(), zeros)) {
      Fail("maps without cells: " + answer.message);
    }
  }
}

// So many RoIs that no plan of them fits into any memory.
void DemandTooManyRois() {
  const Call call = SmallCall();
  Arrays arrays;
  Frame frame = FrameOf(call, kPool, &arrays);
  for (Buffer* buffer :
       {&frame.operands[1], &frame.operands[2], &frame.results[0]}) {
    buffer->dims[1] = int64_t{1} << 56;
  }
  DemandRefusal(kPool, frame, "2^57 RoIs",
                XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

// So many bins that no scratch memory holds a vector for each. No result is
// written to: there is none.
void DemandTooManyBins() {
  Call call = SmallCall(Layout::kNCHW);
  Arrays arrays;
  Frame frame = FrameOf(call, kPool, &arrays);
  frame.results[0].dims = {2, 6, 3, 1 << 20, 1 << 20};
  DemandRefusal(kPool, frame, "2^40 bins",
                XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

int RunMemory() {
  // The address space, as far as a small machine would have memory.
  rlimit limit{};
  limit.rlim_cur = limit.rlim_max = rlim_t{8} << 30;
  if (setrlimit(RLIMIT_AS, &limit) != 0) Fail("setrlimit");
  DemandNothingForEmptyMaps();
  DemandTooManyRois();
  DemandTooManyBins();
  std::printf("memory: refused\n");
  return 0;
}

int Main(int count, char** arguments) {
  const std::string part = count > 1 ? arguments[1] : "";
  if (part == "cases" && count == 3) return RunCases(arguments[2]);
  if (part == "threads") return RunThreads();
  if (part == "lies") return RunLies();
  if (part == "limits") return RunLimits();
  if (part == "memory") return RunMemory();
  std::fprintf(stderr, "driver cases FILE|threads|lies|limits|memory\n");
  return 2;
}

}  // namespace
}  // namespace jax_roipool::native

int main(int count, char** arguments) {
  return jax_roipool::native::Main(count, arguments);
}
