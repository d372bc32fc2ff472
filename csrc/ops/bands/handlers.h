// What the handlers of ops that apply bands have in common on all platforms.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_HANDLERS_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_HANDLERS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/buffers.h"
#include "core/handlers.h"
#include "core/sizes.h"
#include "ops/bands/bands.h"
#include "ops/bands/calls.h"
#include "xla/ffi/api/ffi.h"

namespace jax_roipool {

// Attributes of a custom call.
struct BandsAttributes {
  BandKind kind;
  AxisRule rows, columns;
  LevelScales scale_height, scale_width;
  std::string_view layout;
};

inline std::string WrongNumberOfResults() { return "wrong number of results"; }

// What makes the bands. The call's maps are read already.
inline std::string ReadBands(const BandsAttributes& attributes,
                             const xla::ffi::AnyBuffer& boxes,
                             const xla::ffi::AnyBuffer& image_index,
                             BandsCall* call) {
  constexpr int64_t kMaxSamples = int64_t{1} << 24;  // float32 counts them
  call->kind = attributes.kind;
  call->rows = attributes.rows;
  call->columns = attributes.columns;
  for (const AxisRule& rule : {call->rows, call->columns}) {
    if (rule.samples < 0 || rule.samples > kMaxSamples) {
      return "there must be 0 to 2^24 samples per bin and axis, got " +
             std::to_string(rule.samples);
    }
  }
  call->wide_boxes = call->kind == BandKind::kAlign &&
                     call->maps.element == Element::kFloat64 &&
                     boxes.element_type() == xla::ffi::F64;
  std::string wrong;
  if (call->wide_boxes) {
    const double* wide = nullptr;
    wrong = ReadBoxes(boxes, ShapeOf(image_index), &wide);
    call->boxes = wide;
  } else {
    const float* narrow = nullptr;
    wrong = ReadBoxes(boxes, ShapeOf(image_index), &narrow);
    call->boxes = narrow;
  }
  if (!wrong.empty()) return wrong;
  return ReadScales(attributes.scale_height, attributes.scale_width,
                    call->maps.num_levels, call->scales);
}

// run(call), unless the call is wrong or has no results.
template <typename Run>
xla::ffi::Error HandleBandsApply(const Run& run,
                                 const xla::ffi::RemainingArgs& operands,
                                 const xla::ffi::AnyBuffer& pooled,
                                 const BandsAttributes& attributes) {
  return Guarded([&] {
    const int64_t levels = NumLevels(operands.size(), /*others=*/2);
    if (levels == 0) return InvalidArgument(WrongNumberOfOperands());
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, levels + 1);
    BandsApplyCall call{};
    std::string wrong =
        ReadRoiCall(operands, levels, attributes.layout, operands, image_index,
                    pooled, &call, call.features);
    if (wrong.empty()) {
      wrong =
          ReadBands(attributes, BufferAt(operands, levels), image_index, &call);
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return xla::ffi::Error::Success();
    call.pooled = pooled.untyped_data();
    return run(call);
  });
}

// The same. Gradients come first among `results`, one for each level.
template <typename Run>
xla::ffi::Error HandleBandsTranspose(const Run& run,
                                     const xla::ffi::RemainingArgs& operands,
                                     const xla::ffi::RemainingRets& results,
                                     int64_t levels,
                                     const BandsAttributes& attributes) {
  return Guarded([&] {
    const size_t num_operands = levels > 1 ? 4 : 3;
    if (levels < 1 || operands.size() != num_operands) {
      return InvalidArgument(WrongNumberOfOperands());
    }
    const xla::ffi::AnyBuffer cotangent = BufferAt(operands, 0);
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, 2);
    BandsTransposeCall call{};
    std::string wrong =
        ReadRoiCall(results, levels, attributes.layout, operands, image_index,
                    cotangent, &call, call.gradients);
    if (wrong.empty()) {
      wrong = ReadBands(attributes, BufferAt(operands, 1), image_index, &call);
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (call.maps.empty()) return xla::ffi::Error::Success();
    call.cotangent = cotangent.untyped_data();
    return run(call);
  });
}

template <typename Run>
xla::ffi::Error HandleBandsBoxGradient(const Run& run,
                                       const xla::ffi::RemainingArgs& operands,
                                       const xla::ffi::AnyBuffer& gradient,
                                       const BandsAttributes& attributes) {
  return Guarded([&] {
    const int64_t levels = NumLevels(operands.size(), /*others=*/3);
    if (levels == 0) return InvalidArgument(WrongNumberOfOperands());
    const xla::ffi::AnyBuffer cotangent = BufferAt(operands, levels);
    const xla::ffi::AnyBuffer boxes = BufferAt(operands, levels + 1);
    const xla::ffi::AnyBuffer image_index = BufferAt(operands, levels + 2);
    BandsBoxGradientCall call{};
    std::string wrong =
        ReadRoiCall(operands, levels, attributes.layout, operands, image_index,
                    cotangent, &call, call.features);
    if (wrong.empty()) wrong = ReadBands(attributes, boxes, image_index, &call);
    if (wrong.empty() && gradient.element_type() != boxes.element_type()) {
      wrong = "the gradient of boxes must have their type";
    }
    if (wrong.empty()) {
      wrong = CheckBoxes(ShapeOf(gradient), ShapeOf(image_index));
    }
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (gradient.element_count() == 0) return xla::ffi::Error::Success();
    call.cotangent = cotangent.untyped_data();
    call.gradient = gradient.untyped_data();
    return run(call);
  });
}

// Handlers of a platform. `Context` is bound as XLA's headers have it, `Value`
// is what it is decoded to. The functions run a call; they are handed all
// results, of which the last kWorkspaces are none of the op's.
template <typename Context, typename Value,
          xla::ffi::Error (*kApply)(Value&, const BandsApplyCall&,
                                    const xla::ffi::RemainingRets&),
          xla::ffi::Error (*kTranspose)(Value&, const BandsTransposeCall&,
                                        const xla::ffi::RemainingRets&),
          xla::ffi::Error (*kBoxGradient)(Value&, const BandsBoxGradientCall&,
                                          const xla::ffi::RemainingRets&),
          int64_t kWorkspaces = 0>
struct BandsHandlers {
  using Operands = xla::ffi::RemainingArgs;
  using Results = xla::ffi::RemainingRets;

  static xla::ffi::Error AveragePool(Value context, Operands operands,
                                     Results results, std::string_view layout,
                                     LevelScales height, LevelScales width) {
    return Apply(context, operands, results, Mean(layout, height, width));
  }
  static xla::ffi::Error AveragePoolTranspose(Value context, Operands operands,
                                              Results results,
                                              std::string_view layout,
                                              LevelScales height,
                                              LevelScales width) {
    return Transpose(context, operands, results, Mean(layout, height, width));
  }
  static xla::ffi::Error Align(Value context, Operands operands,
                               Results results, std::string_view layout,
                               LevelScales height, LevelScales width,
                               bool aligned, int64_t columns, int64_t rows) {
    return Apply(context, operands, results,
                 Samples(layout, height, width, aligned, columns, rows));
  }
  static xla::ffi::Error AlignTranspose(Value context, Operands operands,
                                        Results results,
                                        std::string_view layout,
                                        LevelScales height, LevelScales width,
                                        bool aligned, int64_t columns,
                                        int64_t rows) {
    return Transpose(context, operands, results,
                     Samples(layout, height, width, aligned, columns, rows));
  }
  static xla::ffi::Error AlignBoxGradient(Value context, Operands operands,
                                          Results results,
                                          std::string_view layout,
                                          LevelScales height, LevelScales width,
                                          bool aligned, int64_t columns,
                                          int64_t rows) {
    if (!HasOneResult(results)) return InvalidArgument(WrongNumberOfResults());
    return HandleBandsBoxGradient(
        [&](const BandsBoxGradientCall& call) {
          return kBoxGradient(context, call, results);
        },
        operands, BufferAt(results, 0),
        Samples(layout, height, width, aligned, columns, rows));
  }

  // Of average pooling and its transpose; of all others.
  static auto Bind() {
    return xla::ffi::Ffi::Bind()
        .Ctx<Context>()
        .RemainingArgs()
        .RemainingRets()
        .template Attr<std::string_view>("layout")
        .template Attr<LevelScales>("scale_height")
        .template Attr<LevelScales>("scale_width");
  }
  static auto BindAlign() {
    return Bind()
        .template Attr<bool>("aligned")
        .template Attr<int64_t>("sampling_columns")
        .template Attr<int64_t>("sampling_rows");
  }

 private:
  static bool HasOneResult(const Results& results) {
    return static_cast<int64_t>(results.size()) == 1 + kWorkspaces;
  }
  static xla::ffi::Error Apply(Value& context, const Operands& operands,
                               const Results& results,
                               const BandsAttributes& attributes) {
    if (!HasOneResult(results)) return InvalidArgument(WrongNumberOfResults());
    return HandleBandsApply(
        [&](const BandsApplyCall& call) {
          return kApply(context, call, results);
        },
        operands, BufferAt(results, 0), attributes);
  }
  static xla::ffi::Error Transpose(Value& context, const Operands& operands,
                                   const Results& results,
                                   const BandsAttributes& attributes) {
    return HandleBandsTranspose(
        [&](const BandsTransposeCall& call) {
          return kTranspose(context, call, results);
        },
        operands, results, static_cast<int64_t>(results.size()) - kWorkspaces,
        attributes);
  }

  static BandsAttributes Mean(std::string_view layout,
                              const LevelScales& height,
                              const LevelScales& width) {
    return {BandKind::kMean, {}, {}, height, width, layout};
  }
  static BandsAttributes Samples(std::string_view layout,
                                 const LevelScales& height,
                                 const LevelScales& width, bool aligned,
                                 int64_t columns, int64_t rows) {
    return {BandKind::kAlign, {rows, aligned}, {columns, aligned},
            height,           width,           layout};
  }
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_HANDLERS_H_
