#include "frames.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/handlers.h"
#include "cpu/dispatch.h"

namespace jax_roipool::native {
namespace {

XLA_FFI_DataType TypeOf(Array array, Element element) {
  constexpr XLA_FFI_DataType kTypes[] = {
      XLA_FFI_DataType_F16, XLA_FFI_DataType_BF16, XLA_FFI_DataType_F32,
      XLA_FFI_DataType_F64};
  switch (array) {
    case Array::kBoxes:
      return XLA_FFI_DataType_F32;
    case Array::kImageIndex:
    case Array::kCells:
    case Array::kArgmax:
      return XLA_FFI_DataType_S32;
    default:
      return kTypes[static_cast<int>(element)];
  }
}

std::vector<int64_t> DimsOf(Array array, const Sizes& p) {
  const bool last = p.maps.layout == Layout::kNHWC;
  std::vector<int64_t> dims{p.maps.groups};
  if (HasMapShape(array)) {
    dims.insert(dims.end(), {p.maps.images, p.height(), p.width()});
    dims.insert(last ? dims.end() : dims.begin() + 2, p.maps.channels);
    return dims;
  }
  dims.push_back(p.rois.per_group);
  if (array == Array::kBoxes) dims.push_back(4);
  if (HasPooledShape(array)) {
    dims.insert(dims.end(), {p.bins.height, p.bins.width});
    dims.insert(last ? dims.end() : dims.begin() + 2, p.bins.channels);
  }
  return dims;
}

}  // namespace

void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

XLA_FFI_Handler* HandlerNamed(const char* name) {
  for (const auto* handler = RegisteredHandler::First(); handler != nullptr;
       handler = handler->next()) {
    if (std::string_view(name) == handler->op()) return handler->function();
  }
  Fail(std::string("no handler ") + name);
}

Frame FrameOf(const Call& call, const Op& op, Arrays* arrays) {
  arrays->PlaceOperands(call, op);
  arrays->PlaceResults(call, op);
  const auto buffer = [&](Array array) {
    return Buffer{TypeOf(array, call.sizes.maps.element), arrays->data(array),
                  DimsOf(array, call.sizes)};
  };
  Frame frame;
  for (const Array array : op.operands) {
    frame.operands.push_back(buffer(array));
  }
  for (const Array array : op.results) frame.results.push_back(buffer(array));
  const bool last = call.sizes.maps.layout == Layout::kNHWC;
  frame.attributes = {{"layout", std::string(last ? "NHWC" : "NCHW")}};
  if (op.scaled) {
    frame.attributes.push_back({"scale_height", call.scale.height});
    frame.attributes.push_back({"scale_width", call.scale.width});
  }
  return frame;
}

void RunOp(const Call& call, const Op& op, ThreadPool* threads,
           Arrays* arrays) {
  const Answer answer =
      Invoke(HandlerNamed(op.name), threads, FrameOf(call, op, arrays));
  if (answer.code != XLA_FFI_Error_Code_OK ||
      !arrays->HasResults(call, op, op.expect(call))) {
    Fail(std::string(op.name) + " on " + cpu::NameOf(cpu::CurrentIsa()) + ": " +
         call.Describe() + ": " + answer.message);
  }
}

Call SmallCall(Layout layout) {
  const Sizes sizes(layout, Element::kFloat32, 2, 3, 4, 5, 3, 6, 2, 2);
  Reader nothing(nullptr, 0);
  return MakeCallOf(sizes, &nothing, true);
}

}  // namespace jax_roipool::native
