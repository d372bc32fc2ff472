// Calls that no right program makes, and calls for which there is no memory:
// the handlers must refuse them, in words.

#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "arrays.h"
#include "call.h"
#include "core/sizes.h"
#include "cpu/dispatch.h"
#include "frames.h"
#include "op.h"
#include "xla.h"

namespace jax_roipool::native {
namespace {

int64_t refusals = 0;

void DemandRefusal(
    const Op& op, const Frame& frame, const std::string& what,
    XLA_FFI_Error_Code code = XLA_FFI_Error_Code_INVALID_ARGUMENT) {
  native::DemandRefusal(op.name, frame, what, code);
}

decltype(Attribute::value)& ValueOf(const std::string& name, Frame* frame) {
  for (Attribute& attribute : frame->attributes) {
    if (attribute.name == name) return attribute.value;
  }
  Fail("no attribute " + name);
}

void MalformBuffers(const Op& op, const Frame& right, bool nhwc) {
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
      // alone; how many bins there are, to some, from their result alone.
      const Array array = (result ? op.results : op.operands)[i];
      const bool map = HasMapShape(array);
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
            (op.AloneWithBins(array) && dim > 1 && !channels)) {
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
  for (const int64_t size : {int64_t{0}, (int64_t{1} << 24) + 1}) {
    for (size_t i = 0; i < op.operands.size(); ++i) {
      if (HasPooledShape(op.operands[i])) {
        bins.operands[i].dims[nhwc ? 2 : 3] = size;
      }
    }
    for (size_t i = 0; i < op.results.size(); ++i) {
      if (HasPooledShape(op.results[i])) {
        bins.results[i].dims[nhwc ? 2 : 3] = size;
      }
    }
    DemandRefusal(op, bins, std::to_string(size) + " rows of bins");
  }
}

void MalformAttributes(const Op& op, const Frame& right) {
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
      std::numeric_limits<float>::infinity(),
      int64_t{-1},
      (int64_t{1} << 24) + 1,
      std::numeric_limits<int64_t>::min()};
  for (size_t i = 0; i < count; ++i) {
    const std::string name = right.attributes[i].name;
    frame = right;
    frame.attributes.erase(frame.attributes.begin() + static_cast<long>(i));
    DemandRefusal(op, frame, "no " + name);
    frame = right;
    frame.attributes[i].name += "s";
    DemandRefusal(op, frame, name + "s");
    for (const auto& value : values) {
      const auto* number = std::get_if<int64_t>(&value);
      if (name.find("sampling") == 0 && number != nullptr && *number == 1) {
        continue;
      }
      frame = right;
      frame.attributes[i].value = value;
      DemandRefusal(op, frame, name + " of another type or value");
    }
  }
}

// --- Sizes, and pyramids

// Calls of several levels.
void MalformPyramid(const Op& op, Layout layout) {
  const bool nhwc = layout == Layout::kNHWC;
  Arrays arrays;
  const Frame one = FrameOf(SmallCall(layout), op, &arrays);
  const Frame right = FrameOf(SmallCall(layout, 3), op, &arrays);
  const bool maps_first = HasMapShape(op.operands[0]);
  const auto maps = [maps_first](Frame* frame) {
    return maps_first ? &frame->operands : &frame->results;
  };
  const Buffer& first_map = (maps_first ? right.operands : right.results)[0];
  const auto change = [&](const std::string& what, const auto& edit) {
    Frame frame = right;
    edit(&frame);
    DemandRefusal(op, frame, what);
  };
  const auto level = [](Frame* frame) { return &frame->operands.back(); };

  change("no level", [](Frame* f) { f->operands.pop_back(); });
  change("two of level",
         [](Frame* f) { f->operands.push_back(f->operands.back()); });
  change("level with one map", [&](Frame* f) {
    *f = one;
    f->operands.push_back(right.operands.back());
  });
  change("no maps, but level", [&](Frame* f) {
    maps(f)->erase(maps(f)->begin(), maps(f)->begin() + 3);
  });
  change("no maps", [&](Frame* f) {
    *f = one;
    maps(f)->erase(maps(f)->begin());
  });
  change("nothing", [](Frame* f) {
    f->operands.clear();
    f->results.clear();
  });
  change("one map, and no level", [&](Frame* f) {
    maps(f)->erase(maps(f)->begin(), maps(f)->begin() + 2);
  });
  for (const XLA_FFI_DataType type :
       {XLA_FFI_DataType_S64, XLA_FFI_DataType_U32, XLA_FFI_DataType_F32,
        XLA_FFI_DataType_PRED}) {
    change("level of another type", [&](Frame* f) { level(f)->type = type; });
  }
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{},
                                           {2},
                                           {12},
                                           {6, 2},
                                           {2, 5},
                                           {2, 7},
                                           {2, 6, 1},
                                           {2, -6},
                                           {2, int64_t{1} << 62}}) {
    change("level of another shape", [&](Frame* f) { level(f)->dims = dims; });
  }
  for (size_t map = 0; map < 3; ++map) {
    const std::string name = "map " + std::to_string(map);
    change(name + " of another type",
           [&](Frame* f) { (*maps(f))[map].type = XLA_FFI_DataType_F64; });
    for (const int dim : {0, 1, nhwc ? 4 : 2}) {  // groups, images, channels
      for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t{4}}) {
        if (size == first_map.dims[nhwc ? 4 : 2] && dim > 1) continue;
        change(name + ", dimension " + std::to_string(dim) + " is " +
                   std::to_string(size),
               [&](Frame* f) { (*maps(f))[map].dims[dim] = size; });
      }
    }
    change(name + " without groups", [&](Frame* f) {
      (*maps(f))[map].dims.erase((*maps(f))[map].dims.begin());
    });
    change(name + " of more cells than int32 counts", [&](Frame* f) {
      (*maps(f))[map].dims[nhwc ? 2 : 3] = int64_t{1} << 31;
    });
  }
  if (op.scaled) {
    for (const std::string name : {"scale_height", "scale_width"}) {
      const auto scale = [name](Frame* frame) { return &ValueOf(name, frame); };
      change("a number of " + name, [&](Frame* f) { *scale(f) = 1.0f; });
      for (const std::vector<float>& scales :
           {std::vector<float>{},
            {1},
            {1, 1},
            {1, 1, 1, 1},
            {1, 0, 1},
            {1, 1, -1},
            {std::numeric_limits<float>::infinity(), 1, 1}}) {
        change(std::to_string(scales.size()) + " of " + name,
               [&](Frame* f) { *scale(f) = scales; });
      }
      change("an array of one " + name, [&](Frame* f) {
        *f = one;
        *scale(f) = std::vector<float>{1};
      });
    }
  }
  Frame many = FrameOf(SmallCall(layout, kMaxLevels), op, &arrays);
  maps(&many)->insert(maps(&many)->begin(), maps(&many)->front());
  if (op.scaled) {
    for (const char* name : {"scale_height", "scale_width"}) {
      ValueOf(name, &many) = std::vector<float>(kMaxLevels + 1, 1);
    }
  }
  DemandRefusal(op, many, "17 levels");
}

std::string WordsOf(std::vector<std::vector<int64_t>> levels, Maps* maps) {
  std::vector<Shape> shapes;
  for (const auto& dims : levels) {
    shapes.push_back({dims.data(), static_cast<int64_t>(dims.size())});
  }
  return MakeMaps(shapes.data(), static_cast<int>(shapes.size()), maps);
}

void DemandDivisions() {
  const int64_t kLarge = int64_t{1} << 40;
  for (const int64_t by : {int64_t{7}, kLarge / 16 + 1}) {
    for (const int64_t number : {int64_t{0}, int64_t{100}, kLarge}) {
      const Division got = Divide(number, by);
      if (got.quotient != number / by || got.remainder != number % by) {
        Fail("a division");
      }
    }
  }
}

void DemandLevels() {
  for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
    const auto dims = [layout](int64_t images, int64_t height, int64_t width,
                               int64_t channels) -> std::vector<int64_t> {
      if (layout == Layout::kNHWC) return {2, images, height, width, channels};
      return {2, images, channels, height, width};
    };
    Maps maps{};
    maps.layout = layout;
    maps.element = Element::kFloat32;
    const std::vector<int64_t> first = dims(3, 8, 10, 7);
    if (!WordsOf({first, dims(3, 4, 5, 7), dims(3, 0, 3, 7)}, &maps).empty() ||
        maps.num_levels != 3 || maps.groups != 2 || maps.images != 3 ||
        maps.channels != 7 || maps.levels[1].height != 4 ||
        maps.levels[1].width != 5 || maps.map_size(1) != 140) {
      Fail("a pyramid of three levels");
    }
    if (!WordsOf({dims(3, 0, 2, 7), dims(3, 0, 1, 7)}, &maps).empty() ||
        maps.images != 0) {
      Fail("levels without cells");
    }
    for (const auto& other :
         {dims(4, 4, 5, 7), dims(3, 4, 5, 6), {3, 4, 5, 7}}) {
      if (WordsOf({first, other}, &maps).find("levels disagree") != 0) {
        Fail("levels that disagree");
      }
    }
    // int64 counts the maps of each level, and not those of all.
    const std::vector<std::vector<int64_t>> crowded(
        kMaxLevels, {int64_t{1} << 60, 1, 1, 1, 1});
    if (WordsOf(crowded, &maps).find("sizes overflow 64 bits") != 0 ||
        !WordsOf({crowded[0], crowded[0]}, &maps).empty()) {
      Fail("maps of all levels");
    }
    const std::vector<std::vector<int64_t>> many(kMaxLevels + 1, first);
    for (const auto& levels : {many, {}}) {
      if (WordsOf(levels, &maps).find("there must be 1 to") != 0) {
        Fail("a number of levels");
      }
    }
  }
}

// --- Calls without memory

// Maps without cells take no memory; neither may what is planned for them.
void DemandNothingForEmptyMaps(const Op& op) {
  if (op.operands[0] != Array::kMap || op.results[0] != Array::kPooled) return;
  const Call call = SmallCall();
  Arrays arrays;
  Frame frame = FrameOf(call, op, &arrays);
  frame.operands[0].dims = {2, (int64_t{1} << 31) - 1, 0, 5, 3};
  ThreadPool threads(0);
  const Answer answer = Invoke(HandlerNamed(op.name), &threads, frame);
  const int64_t numbers = call.sizes.pooled_numbers();
  const std::vector<double> zeros(numbers, 0);
  if (answer.code != XLA_FFI_Error_Code_OK ||
      !Same("no cells", Element::kFloat32, arrays.data(Array::kPooled),
            zeros.data(), numbers)) {
    Fail("maps without cells: " + answer.message);
  }
}

// So many RoIs that no plan of them fits into any memory.
void DemandTooManyRois(const Op& op) {
  const Call call = SmallCall();
  Arrays arrays;
  Frame frame = FrameOf(call, op, &arrays);
  for (size_t i = 0; i < op.operands.size(); ++i) {
    if (!HasMapShape(op.operands[i])) {
      frame.operands[i].dims[1] = int64_t{1} << 56;
    }
  }
  for (size_t i = 0; i < op.results.size(); ++i) {
    if (!HasMapShape(op.results[i])) {
      frame.results[i].dims[1] = int64_t{1} << 56;
    }
  }
  DemandRefusal(op, frame, "2^57 RoIs", XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

// So many bins that no scratch memory holds a vector for each. No result is
// written to: there is none.
void DemandTooManyBins(const Op& op) {
  if (!op.scratch_for_a_roi) return;
  const Call call = SmallCall(Layout::kNCHW);
  Arrays arrays;
  Frame frame = FrameOf(call, op, &arrays);
  for (Buffer& result : frame.results) {
    result.dims = {2, 6, 3, 1 << 20, 1 << 20};
  }
  DemandRefusal(op, frame, "2^40 bins", XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

}  // namespace

void DemandRefusal(const char* op, const Frame& frame, const std::string& what,
                   XLA_FFI_Error_Code code) {
  ++refusals;
  ThreadPool threads(0);
  const Answer answer = Invoke(HandlerNamed(op), &threads, frame);
  const bool worded = code == XLA_FFI_Error_Code_INVALID_ARGUMENT ||
                      answer.message.find("no memory for") != std::string::npos;
  if (answer.code != code || answer.message.empty() || !worded) {
    Fail(std::string(op) + ", " + what + ": answered " +
         std::to_string(answer.code) + ", " + answer.message);
  }
}

int RunMalformed() {
  for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
    const Call call = SmallCall(layout);
    Arrays arrays;
    for (const Op& op : Ops()) {
      RunOp(call, op, nullptr, &arrays);
      const Frame right = FrameOf(call, op, &arrays);
      MalformBuffers(op, right, layout == Layout::kNHWC);
      MalformAttributes(op, right);
      RunOp(SmallCall(layout, 3), op, nullptr, &arrays);
      RunOp(SmallCall(layout, kMaxLevels), op, nullptr, &arrays);
      MalformPyramid(op, layout);
    }
  }
  for (const Framed& op : Registered<Framed>::All()) op.run_malformed();
  DemandDivisions();
  DemandLevels();
  if (cpu::SetIsa("sse5") || cpu::SetIsa("")) Fail("no such instruction set");
  std::printf("malformed: %lld, all refused\n",
              static_cast<long long>(refusals));
  return 0;
}

int RunMemory() {
  // The address space, as far as a small machine would have memory.
  rlimit limit{};
  limit.rlim_cur = limit.rlim_max = rlim_t{8} << 30;
  if (setrlimit(RLIMIT_AS, &limit) != 0) Fail("setrlimit");
  for (const Op& op : Ops()) {
    DemandNothingForEmptyMaps(op);
    DemandTooManyRois(op);
    DemandTooManyBins(op);
  }
  for (const Framed& op : Registered<Framed>::All()) op.run_without_memory();
  std::printf("memory: refused\n");
  return 0;
}

}  // namespace jax_roipool::native
