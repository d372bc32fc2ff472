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
    case Array::kWideBoxes:
      return XLA_FFI_DataType_F64;
    case Array::kImageIndex:
    case Array::kLevel:
    case Array::kCells:
    case Array::kArgmax:
      return XLA_FFI_DataType_S32;
    default:
      return kTypes[static_cast<int>(element)];
  }
}

std::vector<int64_t> DimsOf(Array array, const Sizes& p, int level) {
  const bool last = p.maps.layout == Layout::kNHWC;
  std::vector<int64_t> dims{p.maps.groups};
  if (HasMapShape(array)) {
    dims.insert(dims.end(), {p.maps.images, p.height(level), p.width(level)});
    dims.insert(last ? dims.end() : dims.begin() + 2, p.maps.channels);
    return dims;
  }
  dims.push_back(p.rois.per_group);
  if (HasBoxesShape(array)) dims.push_back(4);
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
  const auto add = [&](Array array, std::vector<Buffer>* buffers) {
    for (int i = 0; i < NumBuffers(call, array); ++i) {
      const bool box_gradient = array == Array::kBoxGradient;
      const Array typed = !box_gradient             ? array
                          : call.wide_boxes.empty() ? Array::kBoxes
                                                    : Array::kWideBoxes;
      buffers->push_back({TypeOf(typed, call.sizes.maps.element),
                          arrays->data(array, i),
                          DimsOf(array, call.sizes, i)});
    }
  };
  Frame frame;
  for (const Array array : OperandsOf(call, op)) add(array, &frame.operands);
  for (const Array array : op.results) add(array, &frame.results);
  const bool last = call.sizes.maps.layout == Layout::kNHWC;
  if (op.sampled) frame.attributes.push_back({"aligned", call.aligned});
  frame.attributes.push_back({"layout", std::string(last ? "NHWC" : "NCHW")});
  if (op.sampled) {
    frame.attributes.push_back({"sampling_columns", call.samples[1]});
    frame.attributes.push_back({"sampling_rows", call.samples[0]});
  }
  if (op.scaled) {
    std::vector<float> heights, widths;
    for (int i = 0; i < call.sizes.levels(); ++i) {
      heights.push_back(call.scales[i].height);
      widths.push_back(call.scales[i].width);
    }
    if (call.sizes.levels() == 1) {
      frame.attributes.push_back({"scale_height", heights[0]});
      frame.attributes.push_back({"scale_width", widths[0]});
    } else {
      frame.attributes.push_back({"scale_height", heights});
      frame.attributes.push_back({"scale_width", widths});
    }
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

Call SmallCall(Layout layout, int levels) {
  Sizes sizes(layout, Element::kFloat32, 2, 3, 4, 5, 3, 6, 2, 2);
  sizes.maps.num_levels = levels;
  for (int i = 1; i < levels; ++i) sizes.maps.levels[i] = {4, 5 - i % 4};
  Reader nothing(nullptr, 0);
  return MakeCallOf(sizes, &nothing, true);
}

}  // namespace jax_roipool::native
