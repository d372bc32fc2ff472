// nms as XLA calls it: from frames and threads.

#include "frames.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "core/subnormals.h"
#include "nms/nms_input.h"
#include "op.h"
#include "xla.h"

namespace jax_roipool::native {
namespace {

Frame FrameOfNms(const NmsInput& input, const NmsCall& call) {
  const auto buffer = [](XLA_FFI_DataType type, const void* data,
                         std::vector<int64_t> dims) {
    return Buffer{type, const_cast<void*>(data), std::move(dims)};
  };
  const int64_t groups = input.groups, boxes = input.boxes;
  Frame frame;
  frame.operands = {
      buffer(XLA_FFI_DataType_F32, call.corners, {groups, boxes, 4}),
      buffer(XLA_FFI_DataType_S32, call.keys, {groups, boxes}),
      buffer(XLA_FFI_DataType_S32, call.classes, {groups, boxes}),
      buffer(XLA_FFI_DataType_F32, call.thresholds, {groups})};
  frame.results = {
      buffer(XLA_FFI_DataType_S32, call.indices, {groups, input.outputs})};
  frame.attributes = {{"inclusive", input.inclusive}};
  return frame;
}

NmsInput Input(uint64_t seed, bool large) {
  Random random(seed);
  std::vector<uint8_t> bytes(2000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Below(256));
  bytes[0] = large ? 227 : 3;  // three groups
  if (!large) bytes[1] = 8;    // of so many boxes
  Reader reader(bytes.data(), bytes.size());
  return MakeNmsInput(&reader);
}

void RunRight(ThreadPool* threads) {
  NmsArrays arrays;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const NmsInput input = Input(seed, seed % 4 == 0);
    const SubnormalsKept to_compare;
    const Answer answer = Invoke(HandlerNamed("nms"), threads,
                                 FrameOfNms(input, arrays.Place(input)));
    if (answer.code != XLA_FFI_Error_Code_OK ||
        !arrays.Right(input, ExpectNms(input))) {
      Fail("nms, " + input.Describe() + ": " + answer.message);
    }
  }
}

void RunMalformedNms() {
  const NmsInput input = Input(0, false);
  NmsArrays arrays;
  const Frame right = FrameOfNms(input, arrays.Place(input));
  const auto refuse = [](const Frame& frame, const std::string& what) {
    DemandRefusal("nms", frame, what);
  };
  for (const bool result : {false, true}) {
    Frame frame = right;
    const auto buffers = [result](Frame* of) {
      return result ? &of->results : &of->operands;
    };
    const size_t count = buffers(&frame)->size();
    buffers(&frame)->push_back(buffers(&frame)->back());
    refuse(frame, "one buffer too many");
    frame = right;
    buffers(&frame)->pop_back();
    refuse(frame, "one buffer too few");
    for (size_t i = 0; i < count; ++i) {
      const std::string name = std::to_string(i);
      for (const XLA_FFI_DataType type :
           {XLA_FFI_DataType_INVALID, XLA_FFI_DataType_PRED,
            XLA_FFI_DataType_S64, XLA_FFI_DataType_U32, XLA_FFI_DataType_F64,
            XLA_FFI_DataType_F16}) {
        frame = right;
        (*buffers(&frame))[i].type = type;
        refuse(frame, "another type of " + name);
      }
      frame = right;
      const std::vector<int64_t> right_dims = (*buffers(&frame))[i].dims;
      const size_t rank = right_dims.size();
      for (size_t wrong = 0; wrong < rank + 2; ++wrong) {
        if (wrong == rank) continue;
        frame = right;
        (*buffers(&frame))[i].dims.resize(wrong, 1);
        refuse(frame, "another rank of " + name);
      }
      for (size_t dim = 0; dim < rank; ++dim) {
        // How many outputs there are is known from the result alone.
        const bool alone = result && dim == 1;
        for (const int64_t size :
             {right_dims[dim] + 1, int64_t{-1},
              std::numeric_limits<int64_t>::min(),
              std::numeric_limits<int64_t>::max(), int64_t{1} << 62}) {
          if (alone && size > 0 && size < int64_t{1} << 62) continue;
          frame = right;
          (*buffers(&frame))[i].dims[dim] = size;
          refuse(frame, "another size of " + name);
        }
      }
    }
  }
  // All agree, on what is no size.
  for (const int64_t size :
       {int64_t{-1}, std::numeric_limits<int64_t>::min(), int64_t{1} << 62}) {
    Frame frame = right;
    for (auto* buffers : {&frame.operands, &frame.results}) {
      for (Buffer& buffer : *buffers) buffer.dims[0] = size;
    }
    refuse(frame, "so many groups");
    frame = right;
    for (size_t i = 0; i < 3; ++i) frame.operands[i].dims[1] = size;
    refuse(frame, "so many boxes");
  }
  Frame frame = right;
  for (size_t i = 0; i < 3; ++i) frame.operands[i].dims[1] = int64_t{1} << 31;
  refuse(frame, "2^31 boxes");
  frame = right;
  frame.attributes.clear();
  refuse(frame, "no attribute");
  for (const auto& value : {decltype(Attribute::value)(1.0f),
                            decltype(Attribute::value)(int64_t{1}),
                            decltype(Attribute::value)(std::string("true"))}) {
    frame = right;
    frame.attributes[0].value = value;
    refuse(frame, "another attribute");
  }
  frame = right;
  frame.attributes.push_back({"zzz", int64_t{1}});
  refuse(frame, "one attribute too many");
}

// So many boxes that no scratch memory holds them; none is read.
void RunWithoutMemory() {
  const NmsInput input = Input(0, false);
  NmsArrays arrays;
  Frame frame = FrameOfNms(input, arrays.Place(input));
  for (size_t i = 0; i < 3; ++i) {
    frame.operands[i].dims[1] = (int64_t{1} << 31) - 1;
  }
  DemandRefusal("nms", frame, "2^31 - 1 boxes",
                XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

const Registered<Framed> framed({RunRight, RunMalformedNms, RunWithoutMemory});

}  // namespace
}  // namespace jax_roipool::native
