#include "fuzz.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "call.h"
#include "op.h"
#include "run_ops.h"
#include "sizes.h"

namespace jax_roipool::native {
namespace {

Counts counts;

// --- Shapes: what is taken and what is refused

using Dims = std::vector<int64_t>;

Shape ShapeOf(const Dims& dims) {
  return {dims.data(), static_cast<int64_t>(dims.size())};
}

int64_t Dim(Reader* bytes) {
  constexpr int64_t kDims[] = {0,
                               1,
                               2,
                               3,
                               4,
                               7,
                               int64_t{1} << 24,
                               (int64_t{1} << 24) + 1,
                               int64_t{1} << 15,
                               int64_t{1} << 16,
                               (int64_t{1} << 31) - 1,
                               int64_t{1} << 31,
                               int64_t{1} << 32,
                               int64_t{1} << 61,
                               std::numeric_limits<int64_t>::max(),
                               std::numeric_limits<int64_t>::min(),
                               -1};
  const uint8_t kind = bytes->Byte();
  if (kind < 96) return kind % 5;
  if (kind < 240) return kDims[kind % std::size(kDims)];
  return static_cast<int64_t>(bytes->LongWord());
}

// Sizes multiplied without overflow; what does not fit is much.
class Product {
 public:
  Product(const int64_t* begin, const int64_t* end, int64_t times = 1) {
    value_ = times;
    for (const int64_t* dim = begin; dim != end; ++dim) {
      if (*dim == 0) value_ = 0;
    }
    for (const int64_t* dim = begin; dim != end && value_ != 0; ++dim) {
      value_ = *dim > kMuch / value_ ? kMuch : value_ * *dim;
    }
  }
  bool FitsInt64() const { return value_ < kMuch; }
  bool Below(int64_t limit) const { return value_ < limit; }
  int64_t value() const { return static_cast<int64_t>(value_); }

 private:
  static constexpr __int128 kMuch = __int128{1} << 63;
  __int128 value_;
};

bool MayBe(const Dims& map, const Dims& image, const Dims& pooled,
           Layout layout, int64_t element_bytes) {
  for (const Dims* dims : {&map, &image, &pooled}) {
    for (int64_t dim : *dims) {
      if (dim < 0) return false;
    }
  }
  if (map.size() < 4 || image.size() + 4 < map.size() ||
      pooled.size() != image.size() + 3) {
    return false;
  }
  const size_t groups = map.size() - 4;
  for (size_t i = 0; i < groups; ++i) {
    if (map[i] != image[i]) return false;
  }
  for (size_t i = 0; i < image.size(); ++i) {
    if (image[i] != pooled[i]) return false;
  }
  const bool last = layout == Layout::kNHWC;
  const int64_t *one_map = &map[groups + 1], *one_roi = &pooled[image.size()];
  const int64_t *cells = one_map + (last ? 0 : 1), *bins = one_roi + !last;
  constexpr int64_t kLimit = int64_t{1} << 31, kBins = int64_t{1} << 24;
  if (one_map[last ? 2 : 0] != one_roi[last ? 2 : 0]) return false;
  if (bins[0] < 1 || bins[0] > kBins || bins[1] < 1 || bins[1] > kBins) {
    return false;
  }
  if (!Product(cells, cells + 2).Below(kLimit) || cells[0] >= kLimit ||
      cells[1] >= kLimit || map[groups] >= kLimit) {
    return false;
  }
  const int64_t bytes = std::max<int64_t>(element_bytes, 4);
  const int64_t* const roi_dims = pooled.data() + image.size();
  return Product(map.data(), map.data() + map.size(), bytes).FitsInt64() &&
         Product(one_map, one_map + 3, bytes).FitsInt64() &&
         Product(pooled.data(), roi_dims + 3, bytes).FitsInt64() &&
         Product(roi_dims, roi_dims + 3, bytes).FitsInt64() &&
         Product(map.data(), map.data() + groups).FitsInt64() &&
         Product(image.data() + groups, image.data() + image.size())
             .FitsInt64();
}

void Demand(bool right, const char* what, const Dims& map, const Dims& image,
            const Dims& pooled) {
  if (right) return;
  std::fprintf(stderr, "%s:", what);
  for (const Dims* dims : {&map, &image, &pooled}) {
    std::fprintf(stderr, " [");
    for (int64_t dim : *dims) {
      std::fprintf(stderr, " %lld", static_cast<long long>(dim));
    }
    std::fprintf(stderr, " ]");
  }
  std::fprintf(stderr, "\n");
  std::abort();
}

// What kernels and plans multiply, once something is to be done.
void DemandProducts(const Sizes& p, const Dims& map, const Dims& image,
                    const Dims& pooled) {
  const int64_t results[] = {p.rois.groups, p.rois.per_group, p.bins.height,
                             p.bins.width, p.bins.channels};
  const int64_t maps[] = {p.maps.groups, p.maps.images, p.height(), p.width(),
                          p.maps.channels};
  const Product pooled_count(results, results + 5), map_count(maps, maps + 5);
  if (pooled_count.value() == 0 && map_count.value() == 0) return;
  Demand(Product(maps, maps + 2).FitsInt64(), "maps", map, image, pooled);
  Demand(Product(results, results + 2).FitsInt64(), "RoIs", map, image, pooled);
}

void CheckShapes(Reader* bytes) {
  ++counts.shapes;
  constexpr const char* kLayouts[] = {"NHWC", "NCHW", "nhwc", "NHWCN", ""};
  const uint8_t layout = bytes->Byte() % 5;
  Sizes p;
  const bool known = ParseLayout(kLayouts[layout], &p.maps.layout);
  Demand(known == (layout < 2), "layout", {}, {}, {});
  if (!known) return;
  p.maps.element = static_cast<Element>(bytes->Byte() % kNumElements);

  // Mostly shapes that agree, and one number or rank that is another.
  const uint8_t kind = bytes->Byte();
  Dims map(kind % 3), image, boxes, pooled;
  for (int64_t& dim : map) dim = Dim(bytes);
  image = map;
  for (int i = 0; i < kind / 3 % 3; ++i) image.push_back(Dim(bytes));
  boxes = pooled = image;
  for (int i = 0; i < 4; ++i) map.push_back(Dim(bytes));
  for (int i = 0; i < 3; ++i) pooled.push_back(Dim(bytes));
  const bool last = p.maps.layout == Layout::kNHWC;
  pooled[pooled.size() - (last ? 1 : 3)] = map[map.size() - (last ? 1 : 3)];
  Dims argmax = pooled;
  boxes.push_back(4);
  if (kind >= 128) {
    Dims* const all[] = {&map, &image, &boxes, &pooled, &argmax};
    Dims& one = *all[bytes->Byte() % 5];
    const uint8_t change = bytes->Byte();
    if (change % 4 == 0) one.push_back(Dim(bytes));
    if (change % 4 == 1 && !one.empty()) one.pop_back();
    if (change % 4 > 1 && !one.empty())
      one[change / 4 % one.size()] = Dim(bytes);
  }

  const Shape level = ShapeOf(map);
  std::string wrong = MakeMaps(&level, 1, &p.maps);
  if (wrong.empty()) wrong = MakeRois(level, ShapeOf(image), &p.rois);
  if (wrong.empty()) {
    wrong = MakeBins(ShapeOf(image), ShapeOf(pooled), p.maps, &p.bins);
  }
  if (wrong.empty()) wrong = CheckSameChannels(p.maps, p.bins);
  const bool may_be =
      MayBe(map, image, pooled, p.maps.layout, ElementBytes(p.maps.element));
  Demand(wrong.empty() == may_be, "a shape", map, image, pooled);
  if (may_be) DemandProducts(p, map, image, pooled);

  Dims wanted = image;
  wanted.push_back(4);
  Demand(
      CheckBoxes(ShapeOf(boxes), ShapeOf(image)).empty() == (boxes == wanted),
      "boxes", boxes, image, {});
  Demand(CheckArgmax(ShapeOf(argmax), ShapeOf(pooled)).empty() ==
             (argmax == pooled),
         "argmax", argmax, pooled, {});
  float scale[2];
  for (float& value : scale) {
    const uint32_t word = bytes->Word();
    std::memcpy(&value, &word, sizeof(value));
  }
  const bool usable = std::isfinite(scale[0]) && scale[0] > 0 &&
                      std::isfinite(scale[1]) && scale[1] > 0;
  Demand(CheckScale({scale[0], scale[1]}).empty() == usable, "scale", {}, {},
         {});
}

}  // namespace

Counts Done() { return counts; }

}  // namespace jax_roipool::native

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace jax_roipool::native;
  Reader bytes(data, size);
  const uint8_t kind = bytes.Byte();
  if (kind >= 0xf0) {
    CheckShapes(&bytes);
  } else if (kind >= 0xe0) {
    ++counts.calls;
    for (const Fuzzed& op : Registered<Fuzzed>::All()) {
      counts.executions += op.run(&bytes);
    }
  } else {
    ++counts.calls;
    counts.executions += RunOps(MakeCall(&bytes, kSumsInOrder));
  }
  return 0;
}
