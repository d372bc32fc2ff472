// The ops that apply bands as tests know them.

#include "op.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bands/bands_definition.h"

namespace jax_roipool::native {
namespace {

using definition::Axes;

// The bands of a RoI; none where it is empty.
Axes AxesOf(const Call& call, bool samples, int64_t k) {
  const Sizes& p = call.sizes;
  const int level = definition::LevelOf(p, call.indices(), k);
  const Scale scale = call.scales[level];
  const auto of = [&](const auto* box) -> Axes {
    for (int i = 0; i < 4; ++i) {
      if (!std::isfinite(box[i])) return {};
    }
    if (!samples) {
      return {definition::MeanAxis(static_cast<float>(box[1]),
                                   static_cast<float>(box[3]), scale.height,
                                   p.bins.height, p.height(level)),
              definition::MeanAxis(static_cast<float>(box[0]),
                                   static_cast<float>(box[2]), scale.width,
                                   p.bins.width, p.width(level))};
    }
    return {
        definition::AlignAxis(box[1], box[3], scale.height, p.bins.height,
                              p.height(level), call.samples[0], call.aligned),
        definition::AlignAxis(box[0], box[2], scale.width, p.bins.width,
                              p.width(level), call.samples[1], call.aligned)};
  };
  return samples && !call.wide_boxes.empty()
             ? of(call.wide_boxes.data() + 4 * k)
             : of(call.boxes.data() + 4 * k);
}

// Whether kernels, which sum float64 in float64 and all else in float32, see a
// weight that is not 0.
bool Counts(const Call& call, double weight) {
  return call.sizes.maps.element == Element::kFloat64
             ? weight != 0
             : static_cast<float>(weight) != 0;
}

// A sum of terms, and how far from it a kernel's may be.
class Sum {
 public:
  explicit Sum(const Call& call)
      : wide_(call.sizes.maps.element == Element::kFloat64) {}

  // `weight` times a number, and on the way to it `larger` times that.
  void Add(double number, double weight, double larger) {
    sum_ += number * weight;
    if (!std::isfinite(number)) return;
    magnitude_ += std::fabs(number * weight);
    partial_ += std::fabs(number * larger);
  }
  void AddProduct(const Sum& sum, double factor) {
    sum_ += sum.sum_ * factor;
    partial_ += sum.partial_;
    if (!std::isfinite(factor)) {
      // An infinity may meet terms of either sign before it meets their sum.
      if (std::isinf(factor)) partial_ = kAnyNumber;
      return;
    }
    magnitude_ += sum.magnitude_ * std::fabs(factor);
    partial_ += sum.partial_ * std::fabs(factor);
    factor_ = std::max(factor_, std::fabs(factor));
  }

  double number() const { return sum_; }
  double tolerance() const {
    const double most = wide_ ? std::numeric_limits<double>::max()
                              : std::numeric_limits<float>::max();
    if (!(partial_ < most / 2)) return kAnyNumber;
    if (!std::isfinite(sum_)) return 0;
    // Near the smallest numbers digits are lost.
    const double least = wide_ ? 0x1p-1060 : 0x1p-140;
    return 1e-5 * magnitude_ + least * factor_;
  }

 private:
  bool wide_;
  double sum_ = 0, magnitude_ = 0, partial_ = 0, factor_ = 1;
};

Wanted WantedOf(const std::vector<Sum>& sums) {
  Wanted wanted;
  for (const Sum& sum : sums) {
    wanted.numbers.push_back(sum.number());
    wanted.tolerances.push_back(sum.tolerance());
  }
  return wanted;
}

// visit(RoI, its map, its level, its bands) for those that are not empty.
template <typename Visit>
void ForEachRoi(const Call& call, bool samples, const Visit& visit) {
  const Sizes& p = call.sizes;
  for (int64_t k = 0; k < p.rois.count(); ++k) {
    const int64_t map = definition::MapOf(p, call.indices(), k);
    if (map < 0) continue;
    const Axes axes = AxesOf(call, samples, k);
    if (axes.rows.empty()) continue;
    visit(k, map, definition::LevelOf(p, call.indices(), k), axes);
  }
}

// visit(place in maps, place in results, weight, the larger of the weights that
// it is the product of) for every entry.
template <typename Visit>
void ForEachEntry(const Call& call, bool samples, const Visit& visit) {
  const Sizes& p = call.sizes;
  const definition::Place in_pooled = definition::PooledPlace(p);
  ForEachRoi(
      call, samples, [&](int64_t k, int64_t map, int level, const Axes& axes) {
        const definition::Place in_map = definition::MapPlace(p, level);
        for (int64_t i = 0; i < p.bins.height; ++i) {
          for (int64_t j = 0; j < p.bins.width; ++j) {
            definition::ForEachCell(
                axes, i, j,
                [&](int64_t row, const auto& of_row, int64_t column,
                    const auto& of_column) {
                  if (!Counts(call, of_row[0]) || !Counts(call, of_column[0])) {
                    return;
                  }
                  for (int64_t c = 0; c < p.bins.channels; ++c) {
                    visit(in_map(map, row, column, c), in_pooled(k, i, j, c),
                          of_row[0] * of_column[0],
                          std::max(of_row[0], of_column[0]));
                  }
                });
          }
        }
      });
}

template <bool kSamples>
std::vector<Wanted> ExpectApply(const Call& call) {
  const std::vector<double> map = Widened(call.sizes.maps.element, call.map);
  std::vector<Sum> pooled(call.sizes.pooled_numbers(), Sum(call));
  ForEachEntry(call, kSamples,
               [&](int64_t from, int64_t to, double weight, double larger) {
                 pooled[to].Add(map[from], weight, larger);
               });
  return {WantedOf(pooled)};
}

template <bool kSamples>
std::vector<Wanted> ExpectTranspose(const Call& call) {
  const std::vector<double> cotangent =
      Widened(call.sizes.maps.element, call.cotangent);
  std::vector<Sum> gradient(call.sizes.map_numbers(), Sum(call));
  ForEachEntry(call, kSamples,
               [&](int64_t to, int64_t from, double weight, double larger) {
                 gradient[to].Add(cotangent[from], weight, larger);
               });
  return {WantedOf(gradient)};
}

std::vector<Wanted> ExpectBoxGradient(const Call& call) {
  const Sizes& p = call.sizes;
  const std::vector<double> map = Widened(p.maps.element, call.map);
  const std::vector<double> cotangent = Widened(p.maps.element, call.cotangent);
  const definition::Place in_pooled = definition::PooledPlace(p);
  constexpr struct {
    int row, column;
  } kSlopes[] = {{0, 1}, {1, 0}, {0, 2}, {2, 0}};
  Wanted wanted;
  wanted.numbers.resize(4 * p.rois.count());
  wanted.tolerances.resize(4 * p.rois.count());
  ForEachRoi(
      call, true, [&](int64_t k, int64_t of, int level, const Axes& axes) {
        const definition::Place in_map = definition::MapPlace(p, level);
        for (int corner = 0; corner < 4; ++corner) {
          Sum total(call);
          for (int64_t i = 0; i < p.bins.height; ++i) {
            for (int64_t j = 0; j < p.bins.width; ++j) {
              for (int64_t c = 0; c < p.bins.channels; ++c) {
                Sum slope(call);
                bool some = false;
                definition::ForEachCell(
                    axes, i, j,
                    [&](int64_t row, const auto& of_row, int64_t column,
                        const auto& of_column) {
                      const double a = of_row[kSlopes[corner].row];
                      const double b = of_column[kSlopes[corner].column];
                      if (!Counts(call, a) || !Counts(call, b)) return;
                      some = true;
                      const double value = map[in_map(of, row, column, c)];
                      slope.Add(value, a * b,
                                std::max({std::fabs(a), std::fabs(b),
                                          std::fabs(a * b)}));
                    });
                if (some) {
                  total.AddProduct(slope, cotangent[in_pooled(k, i, j, c)]);
                }
              }
            }
          }
          wanted.numbers[4 * k + corner] = total.number();
          wanted.tolerances[4 * k + corner] = total.tolerance();
        }
      });
  return {wanted};
}

const Registered<Op> average_pool({
    "roi_average_pool",
    {Array::kMap, Array::kBoxes, Array::kImageIndex},
    {Array::kPooled},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/true,
    ExpectApply<false>,
});
const Registered<Op> average_pool_transpose({
    "roi_average_pool_transpose",
    {Array::kCotangent, Array::kBoxes, Array::kImageIndex},
    {Array::kGradient},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/false,
    ExpectTranspose<false>,
});
const Registered<Op> align({
    "roi_align",
    {Array::kMap, Array::kBoxes, Array::kImageIndex},
    {Array::kPooled},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/true,
    ExpectApply<true>,
    /*sampled=*/true,
});
const Registered<Op> align_transpose({
    "roi_align_transpose",
    {Array::kCotangent, Array::kBoxes, Array::kImageIndex},
    {Array::kGradient},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/false,
    ExpectTranspose<true>,
    /*sampled=*/true,
});
const Registered<Op> align_box_gradient({
    "roi_align_box_gradient",
    {Array::kMap, Array::kCotangent, Array::kBoxes, Array::kImageIndex},
    {Array::kBoxGradient},
    /*scaled=*/true,
    /*scratch_for_a_roi=*/false,
    ExpectBoxGradient,
    /*sampled=*/true,
});

}  // namespace
}  // namespace jax_roipool::native
