// All kernels of csrc/cuda without JAX, against tests/native/definition.h.
//
// For every shape, layout and element type: pooling with argmax and without,
// gather and scatter, cut for the present device and for small ones; bands and
// nms. Built and run by run.py, plainly and under compute-sanitizer; the same
// file runs on the host. Every buffer is an allocation of its own, so that a
// step beyond its end is noticed, and results are garbage before a launch.
//
//   driver [PART PARTS]   every size, or every so manieth from the PARTth on
//
// Exits with 1 where a result differs, with 2 where CUDA fails.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "argmax/argmax_definition.h"
#include "bands/bands_definition.h"
#include "cuda/device.h"
#include "definition.h"
#include "device_memory.h"
#include "max/max_definition.h"
#include "nms/nms_definition.h"
#include "ops/argmax/cuda.h"
#include "ops/bands/cuda.h"
#include "ops/max/cuda.h"
#include "ops/nms/cuda.h"
#include "sizes.h"

namespace jax_roipool::driver {
namespace {

using cuda::Device;
using cuda::Status;
using cuda::Stream;
using definition::Load;
using definition::Store;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr unsigned char kGarbage = 0xa5;

void Demand(Status status, const char* what) {
  if (status == cuda::kSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cuda::Describe(status));
  std::exit(2);
}

// --- Arrays
// -------------------------------------------------------------------

using Bytes = std::vector<unsigned char>;

Bytes ToElements(Element element, const std::vector<double>& values) {
  Bytes bytes(values.size() * ElementBytes(element));
  for (size_t i = 0; i < values.size(); ++i) {
    Store(element, values[i], bytes.data(), static_cast<int64_t>(i));
  }
  return bytes;
}

// Memory of the device, exactly as much as is asked for. It begins `offset`
// bytes into an allocation: vectors of elements cannot be moved at once then.
class DeviceArray {
 public:
  DeviceArray(size_t bytes, size_t offset) : bytes_(bytes), offset_(offset) {
    Demand(Allocate(bytes + offset, &memory_), "allocation");
    if (bytes > 0) {
      const Bytes garbage(bytes, kGarbage);
      Demand(CopyIn(data(), garbage.data(), bytes), "copy");
    }
  }
  DeviceArray(const void* data, size_t bytes, size_t offset)
      : DeviceArray(bytes, offset) {
    if (bytes > 0) Demand(CopyIn(this->data(), data, bytes), "copy");
  }
  ~DeviceArray() { Demand(Free(memory_), "free"); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void* data() const { return static_cast<unsigned char*>(memory_) + offset_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }
  Bytes Read() const {
    Bytes bytes(bytes_);
    if (bytes_ > 0) Demand(CopyOut(bytes.data(), data(), bytes_), "copy");
    return bytes;
  }

 private:
  void* memory_ = nullptr;
  size_t bytes_, offset_;
};

// --- Inputs
// -------------------------------------------------------------------

// Numbers in no order, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  int64_t Below(int64_t limit) { return Next() % limit; }
  double Unit() { return Next() / 2147483648.0; }

 private:
  uint64_t state_;
};

struct Size {
  const char* what;
  int64_t groups, images, height, width, channels, rois;
  int64_t pooled_height, pooled_width;
  float scale_height, scale_width;
};

constexpr Size kSizes[] = {
    {"one of everything", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {"an odd number of channels", 1, 2, 13, 17, 3, 20, 2, 3, 1, 1},
    {"17 channels, 7 x 7 bins", 1, 2, 30, 41, 17, 13, 7, 7, 1, 1},
    {"groups", 3, 2, 9, 11, 20, 8, 3, 3, 0.5f, 0.25f},
    {"large bins", 1, 1, 25, 33, 68, 12, 1, 2, 1, 1},
    {"large bins, few channels", 1, 1, 38, 63, 5, 12, 2, 1, 1, 1},
    {"more RoIs than are listed at once", 1, 2, 5, 7, 9, 270, 2, 2, 1, 1},
    {"more bins than threads", 1, 1, 24, 40, 8, 11, 20, 17, 1, 1},
    {"a plane of several tiles", 1, 1, 60, 75, 9, 18, 3, 3, 0.0625f, 0.0625f},
    {"no RoIs", 3, 1, 5, 6, 5, 0, 2, 2, 1, 1},
    {"no rows", 1, 2, 0, 10, 4, 13, 2, 2, 1, 1},
    {"no images", 1, 0, 8, 10, 4, 13, 2, 2, 1, 1},
};

// Cut as for the present device, for one without much, and for one between.
std::vector<Device> Devices() {
  Device present;
  Demand(QueryPresent(&present), "the device");
  return {present, {1, 40 << 10, 34 << 10}, {6, 48 << 10, 64 << 10}};
}

// Small integers, many of them equal; now and then what is none.
std::vector<double> Features(int64_t count, Random* random) {
  constexpr double kSpecial[] = {kNaN, -kInfinity, kInfinity, -0.0};
  std::vector<double> values(count);
  const bool only_low = random->Below(4) == 0;
  for (double& value : values) {
    value = static_cast<double>(random->Below(9)) - 4;
    if (random->Below(50) == 0) value = kSpecial[random->Below(4)];
    if (only_low) value = -kInfinity;
  }
  return values;
}

struct Rois {
  std::vector<float> boxes;    // [groups, rois, 4]: x1, y1, x2, y2
  std::vector<int32_t> image;  // [groups, rois]
};

Rois MakeRois(const Size& size, Random* random) {
  constexpr float kHuge = 1e30f, kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Rois rois;
  for (int64_t k = 0; k < size.groups * size.rois; ++k) {
    const auto corner = [&](int64_t extent, float scale) {
      const double cells = (1.6 * random->Unit() - 0.3) * extent;
      return static_cast<float>(cells / scale);
    };
    float box[4];
    for (int i = 0; i < 4; ++i) {
      box[i] = i % 2 == 0 ? corner(size.width, size.scale_width)
                          : corner(size.height, size.scale_height);
    }
    const bool reversed = random->Below(10) == 0;
    for (int i = 0; i < 2; ++i) {
      if (box[i] > box[i + 2] && !reversed) std::swap(box[i], box[i + 2]);
    }
    int64_t image = random->Below(std::max<int64_t>(size.images, 1));
    switch (k) {
      case 1:
        image = -1;
        break;
      case 2:
        image = size.images;
        break;
      case 3:
        image = std::numeric_limits<int32_t>::min();
        break;
      case 4:
        image = std::numeric_limits<int32_t>::max();
        break;
      case 5:
        box[0] = kNan;
        break;
      case 6:
        box[3] = kInf;
        break;
      case 7:
        box[1] = -kInf;
        break;
      case 8:  // far beyond the map on all sides
        box[0] = box[1] = -kHuge;
        box[2] = box[3] = kHuge;
        break;
      case 9:  // beside it
        box[0] = box[2] = 4 * (size.width + 1) / size.scale_width;
        break;
      case 0:  // all of it
      case 10:
        box[0] = box[1] = 0;
        box[2] = (size.width - 1) / size.scale_width;
        box[3] = (size.height - 1) / size.scale_height;
        break;
      default:
        break;
    }
    rois.boxes.insert(rois.boxes.end(), box, box + 4);
    rois.image.push_back(static_cast<int32_t>(image));
  }
  return rois;
}

// --- Comparing
// --------------------------------------------------------------------

int64_t checks = 0, failures = 0;

// `wanted` is a double of each element; they may be off by `tolerance`.
void Compare(const std::string& name, Element element, const Bytes& got,
             const std::vector<double>& wanted,
             const std::vector<double>* tolerance = nullptr) {
  ++checks;
  int64_t differing = 0, first = -1;
  const auto count = static_cast<int64_t>(wanted.size());
  for (int64_t i = 0; i < count; ++i) {
    const double a = Load(element, got.data(), i), b = wanted[i];
    const bool same =
        a == b || (std::isnan(a) && std::isnan(b)) ||
        (tolerance != nullptr && std::fabs(a - b) <= (*tolerance)[i]);
    if (same) continue;
    if (differing++ == 0) first = i;
  }
  if (differing == 0) return;
  ++failures;
  std::printf("%s: %lld of %lld differ; at %lld %g and not %g\n", name.c_str(),
              static_cast<long long>(differing), static_cast<long long>(count),
              static_cast<long long>(first), Load(element, got.data(), first),
              wanted[first]);
}

std::vector<double> Widened(Element element, const Bytes& bytes) {
  std::vector<double> values(bytes.size() / ElementBytes(element));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = Load(element, bytes.data(), static_cast<int64_t>(i));
  }
  return values;
}

void CompareCells(const std::string& name, const Bytes& got,
                  const std::vector<int32_t>& wanted) {
  ++checks;
  int64_t differing = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    int32_t cell;
    std::memcpy(&cell, got.data() + i * sizeof(cell), sizeof(cell));
    differing += cell != wanted[i];
  }
  if (differing == 0) return;
  ++failures;
  std::printf("%s: %lld of %zu cells differ\n", name.c_str(),
              static_cast<long long>(differing), wanted.size());
}

// --- The calls
// ---------------------------------------------------------------------

class Trial {
 public:
  Trial(const Size& size, Layout layout, Element element, size_t offset,
        uint64_t seed, Stream stream)
      : random_(seed), offset_(offset), stream_(stream) {
    sizes_ = Sizes(layout, element, size.groups, size.images, size.height,
                   size.width, size.channels, size.rois, size.pooled_height,
                   size.pooled_width);
    scale_ = {size.scale_height, size.scale_width};
    rois_ = MakeRois(size, &random_);
    constexpr const char* kElements[] = {"float16", "bfloat16", "float32",
                                         "float64"};
    name_ = std::string(size.what) + ", " +
            (layout == Layout::kNHWC ? "NHWC " : "NCHW ") +
            kElements[static_cast<int>(element)] +
            (offset > 0 ? ", unaligned" : "");
  }

  void Run(const std::vector<Device>& devices) {
    results_ = sizes_.pooled_numbers();
    maps_ = sizes_.map_numbers();
    const DeviceArray boxes(rois_.boxes.data(), rois_.boxes.size() * 4, 0);
    const DeviceArray image(rois_.image.data(), rois_.image.size() * 4, 0);
    const std::vector<int32_t> argmax = RunPool(devices, boxes, image);
    // Handed to gather and scatter: what no pooling would say, too.
    std::vector<int32_t> hostile = argmax;
    const auto cells = static_cast<int32_t>(sizes_.cells());
    const int32_t wrong[] = {-1,
                             -7,
                             cells,
                             cells + 5,
                             std::numeric_limits<int32_t>::max(),
                             std::numeric_limits<int32_t>::min()};
    for (int32_t& cell : hostile) {
      if (random_.Below(8) == 0) cell = wrong[random_.Below(6)];
    }
    const DeviceArray at(hostile.data(), hostile.size() * 4, 0);
    RunGather(devices, image, at, hostile);
    RunScatter(devices, image, at, hostile, /*integers=*/true);
    RunScatter(devices, image, at, hostile, /*integers=*/false);
    if (results_ > 0 && maps_ > 0)
      RunBands(boxes, image, random_.Below(2) == 0);
  }

 private:
  DeviceArray Array(const Bytes& bytes) const {
    return DeviceArray(bytes.data(), bytes.size(), offset_);
  }
  RoiCall RoisOf(const DeviceArray& image) const {
    return {sizes_.maps, sizes_.rois, sizes_.bins, image.as<int32_t>(),
            nullptr};
  }
  size_t SizeOf(int64_t count) const {
    return static_cast<size_t>(count * ElementBytes(sizes_.maps.element));
  }
  std::string Name(const char* op, size_t device) const {
    return name_ + ", " + op + ", cut " + std::to_string(device);
  }

  std::vector<int32_t> RunPool(const std::vector<Device>& devices,
                               const DeviceArray& boxes,
                               const DeviceArray& image) {
    // Small integers, which no element rounds.
    const std::vector<double> features = Features(maps_, &random_);
    std::vector<double> values(results_);
    std::vector<int32_t> cells(results_);
    definition::MaxPool(sizes_, &scale_, features.data(), rois_.boxes.data(),
                        {rois_.image.data()}, values.data(), cells.data());
    if (results_ == 0) return cells;  // handlers launch nothing
    const DeviceArray map = Array(ToElements(sizes_.maps.element, features));
    for (size_t d = 0; d < devices.size(); ++d) {
      for (const bool with_argmax : {false, true}) {
        const DeviceArray pooled(SizeOf(results_), offset_);
        const DeviceArray argmax(cells.size() * 4, 0);
        MaxPoolCall call{};
        call.maps = sizes_.maps;
        call.rois = sizes_.rois;
        call.bins = sizes_.bins;
        call.scales[0] = scale_;
        call.features[0] = map.data();
        call.boxes = boxes.as<float>();
        call.image_index = image.as<int32_t>();
        call.pooled = pooled.data();
        if (with_argmax) call.argmax = argmax.as<int32_t>();
        NextOrder();
        Demand(cuda::MaxPool(call, devices[d], stream_), "Pool");
        Demand(Wait(stream_), "Pool");
        const char* op = with_argmax ? "pool with argmax" : "pool";
        Compare(Name(op, d), sizes_.maps.element, pooled.Read(), values);
        if (with_argmax) CompareCells(Name(op, d), argmax.Read(), cells);
      }
    }
    return cells;
  }

  void RunGather(const std::vector<Device>& devices, const DeviceArray& image,
                 const DeviceArray& at, const std::vector<int32_t>& argmax) {
    if (results_ == 0) return;
    const std::vector<double> tangent = Features(maps_, &random_);
    std::vector<double> wanted(results_);
    definition::ArgmaxGather(sizes_, tangent.data(), {rois_.image.data()},
                             argmax.data(), wanted.data());
    const DeviceArray map = Array(ToElements(sizes_.maps.element, tangent));
    const DeviceArray pooled(SizeOf(results_), offset_);
    NextOrder();
    const ArgmaxGatherCall call{
        RoisOf(image), {map.data()}, at.as<int32_t>(), pooled.data()};
    Demand(cuda::ArgmaxGather(call, devices[0], stream_), "Gather");
    Demand(Wait(stream_), "Gather");
    Compare(Name("gather", 0), sizes_.maps.element, pooled.Read(), wanted);
  }

  // Sums of integers are exact. Others may be off by what float32 rounds, and
  // are the same bits in every run that is cut alike: tiles change which
  // entries are added up together.
  void RunScatter(const std::vector<Device>& devices, const DeviceArray& image,
                  const DeviceArray& at, const std::vector<int32_t>& argmax,
                  bool integers) {
    if (maps_ == 0) return;
    const Element element = sizes_.maps.element;
    std::vector<double> cotangent(results_);
    for (double& value : cotangent) {
      value = integers
                  ? static_cast<double>(random_.Below(9)) - 4
                  : (random_.Unit() - 0.5) * std::pow(10, random_.Below(7) - 3);
    }
    const Bytes bytes = ToElements(element, cotangent);
    std::vector<double> wanted(maps_), tolerance(maps_);
    definition::ForEachEntry(sizes_, {rois_.image.data()}, argmax.data(),
                             [&](int64_t place, int64_t to) {
                               if (to < 0) return;
                               const double value =
                                   Load(element, bytes.data(), place);
                               wanted[to] += value;
                               tolerance[to] += std::fabs(value);
                             });
    const bool half = ElementBytes(element) == 2;
    const double unit = element == Element::kFloat64 ? 0x1p-52 : 0x1p-23;
    for (int64_t i = 0; i < maps_; ++i) {
      tolerance[i] *= unit * 64;
      if (half) tolerance[i] += std::fabs(wanted[i]) * 0x1p-8 + 0x1p-24;
    }
    if (integers) wanted = Widened(element, ToElements(element, wanted));

    const DeviceArray pooled = Array(bytes);
    for (size_t d = 0; d < devices.size(); ++d) {
      const Bytes got = Scattered(devices[d], pooled, image, at);
      const char* op = integers ? "scatter of integers" : "scatter";
      Compare(Name(op, d), element, got, wanted,
              integers ? nullptr : &tolerance);
      if (integers) continue;
      ++checks;
      if (got != Scattered(devices[d], pooled, image, at)) {
        ++failures;
        std::printf("%s: other bits the second time\n", Name(op, d).c_str());
      }
    }
  }

  Bytes Scattered(const Device& device, const DeviceArray& pooled,
                  const DeviceArray& image, const DeviceArray& at) const {
    const DeviceArray map(SizeOf(maps_), offset_);
    const DeviceArray bounds(2 * rois_.image.size() * 4, 0);
    NextOrder();
    const ArgmaxScatterCall call{
        RoisOf(image), pooled.data(), at.as<int32_t>(), {map.data()}};
    Demand(cuda::ArgmaxScatter(call, bounds.as<int32_t>(), device, stream_),
           "Scatter");
    Demand(Wait(stream_), "Scatter");
    return map.Read();
  }

  std::vector<double> Integers(int64_t count) {
    std::vector<double> values(count);
    for (double& value : values) {
      value = static_cast<double>(random_.Below(9)) - 4;
    }
    return values;
  }

  // What sums to a result, and how much of it there is.
  struct Sums {
    explicit Sums(int64_t count) : numbers(count), tolerances(count) {}
    void Add(int64_t at, double term) {
      numbers[at] += term;
      tolerances[at] += std::fabs(term);
    }
    void Check(const std::string& name, Element element, const Bytes& got) {
      const bool half = ElementBytes(element) == 2;
      for (size_t i = 0; i < numbers.size(); ++i) {
        tolerances[i] = 1e-5 * tolerances[i] + 0x1p-120;
        if (half) tolerances[i] += std::fabs(numbers[i]) * 0x1p-8 + 0x1p-24;
      }
      Compare(name, element, got, numbers, &tolerances);
    }
    std::vector<double> numbers, tolerances;
  };

  // Average pooling or RoIAlign, its transpose, and its gradient of boxes.
  void RunBands(const DeviceArray& boxes, const DeviceArray& image,
                bool samples) {
    const Element element = sizes_.maps.element;
    const std::vector<double> features = Integers(maps_);
    const std::vector<double> cotangent = Integers(results_);
    const auto count = static_cast<int64_t>(rois_.image.size());
    Sums pooled(results_), gradient(maps_), of_boxes(4 * count);
    const definition::Place in_pooled = definition::PooledPlace(sizes_);
    const definition::Place in_map = definition::MapPlace(sizes_, 0);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t map = definition::MapOf(sizes_, {rois_.image.data()}, k);
      const float* box = rois_.boxes.data() + 4 * k;
      const bool finite = std::isfinite(box[0]) && std::isfinite(box[1]) &&
                          std::isfinite(box[2]) && std::isfinite(box[3]);
      if (map < 0 || !finite) continue;
      const auto along = [&](int corner, float scale, int64_t bins,
                             int64_t extent) {
        const float low = box[corner], high = box[corner + 2];
        return samples ? definition::AlignAxis(low, high, scale, bins, extent,
                                               /*samples=*/corner, true)
                       : definition::MeanAxis(low, high, scale, bins, extent);
      };
      const definition::Axes axes{
          along(1, scale_.height, sizes_.bins.height, sizes_.height(0)),
          along(0, scale_.width, sizes_.bins.width, sizes_.width(0))};
      const auto add = [&](int64_t i, int64_t j, int64_t row, const auto& a,
                           int64_t column, const auto& b) {
        for (int64_t c = 0; c < sizes_.maps.channels; ++c) {
          const int64_t bin = in_pooled(k, i, j, c);
          const int64_t cell = in_map(map, row, column, c);
          pooled.Add(bin, a[0] * b[0] * features[cell]);
          gradient.Add(cell, a[0] * b[0] * cotangent[bin]);
          const double product = features[cell] * cotangent[bin];
          of_boxes.Add(4 * k, a[0] * b[1] * product);
          of_boxes.Add(4 * k + 1, a[1] * b[0] * product);
          of_boxes.Add(4 * k + 2, a[0] * b[2] * product);
          of_boxes.Add(4 * k + 3, a[2] * b[0] * product);
        }
      };
      for (int64_t i = 0; i < sizes_.bins.height; ++i) {
        for (int64_t j = 0; j < sizes_.bins.width; ++j) {
          definition::ForEachCell(
              axes, i, j,
              [&](int64_t row, const auto& a, int64_t column, const auto& b) {
                add(i, j, row, a, column, b);
              });
        }
      }
    }

    const DeviceArray map = Array(ToElements(element, features));
    const DeviceArray pulled = Array(ToElements(element, cotangent));
    const auto run = [&](auto call, size_t bytes, size_t offset, auto&& set) {
      static_cast<RoiCall&>(call) = RoisOf(image);
      call.kind = samples ? BandKind::kAlign : BandKind::kMean;
      call.rows = {samples ? 1 : 0, samples};
      call.columns = {0, samples};
      call.scales[0] = scale_;
      call.boxes = boxes.data();
      const DeviceArray result(bytes, offset),
          workspace(static_cast<size_t>(cuda::BandsWorkspace(call)), 0);
      set(&call, result.data());
      NextOrder();
      Demand(cuda::RunBands(call, workspace.data(), stream_), "Bands");
      Demand(Wait(stream_), "Bands");
      return result.Read();
    };
    pooled.Check(Name("bands", 0), element,
                 run(BandsApplyCall{}, SizeOf(results_), offset_,
                     [&](BandsApplyCall* call, void* result) {
                       call->features[0] = map.data();
                       call->pooled = result;
                     }));
    const auto transpose = [&] {
      return run(BandsTransposeCall{}, SizeOf(maps_), offset_,
                 [&](BandsTransposeCall* call, void* result) {
                   call->cotangent = pulled.data();
                   call->gradients[0] = result;
                 });
    };
    const Bytes first = transpose();
    gradient.Check(Name("bands transposed", 0), element, first);
    ++checks;
    if (first != transpose()) {
      ++failures;
      std::printf("%s: other bits the second time\n",
                  Name("bands transposed", 0).c_str());
    }
    if (!samples || count == 0) return;
    of_boxes.Check(Name("gradient of boxes", 0), Element::kFloat32,
                   run(BandsBoxGradientCall{}, of_boxes.numbers.size() * 4, 0,
                       [&](BandsBoxGradientCall* call, void* result) {
                         call->features[0] = map.data();
                         call->cotangent = pulled.data();
                         call->gradient = result;
                       }));
  }

  Random random_;
  const size_t offset_;
  const Stream stream_;
  Sizes sizes_;
  Scale scale_;
  Rois rois_;
  std::string name_;
  int64_t results_ = 0, maps_ = 0;
};

// Crowded boxes of three classes, so many rows at a time.
void RunNms(int64_t boxes, int64_t outputs, int64_t rows, Stream stream) {
  constexpr int64_t kGroups = 3;
  const bool inclusive = boxes % 2 == 1;
  Random random(boxes);
  std::vector<float> corners, thresholds = {0.0f, 0.3f, 0.7f};
  std::vector<int32_t> keys, classes, wanted;
  for (int64_t i = 0; i < kGroups * boxes; ++i) {
    const auto x = static_cast<float>(random.Below(60));
    const auto y = static_cast<float>(random.Below(60));
    const float large = random.Below(20) == 0 ? 1e30f : 1.0f;
    corners.insert(corners.end(),
                   {x, y, large * (x + static_cast<float>(random.Below(30))),
                    large * (y + static_cast<float>(random.Below(30)))});
    keys.push_back(random.Below(9) == 0
                       ? kNeverChosen
                       : static_cast<int32_t>(random.Below(200)) - 100);
    classes.push_back(static_cast<int32_t>(random.Below(3)));
  }
  for (int64_t group = 0; group < kGroups; ++group) {
    const int64_t first = group * boxes;
    const std::vector<int32_t> chosen = definition::Nms(
        corners.data() + 4 * first, keys.data() + first, classes.data() + first,
        boxes, thresholds[static_cast<size_t>(group)], outputs, inclusive);
    wanted.insert(wanted.end(), chosen.begin(), chosen.end());
  }
  const DeviceArray of_corners(corners.data(), corners.size() * 4, 0);
  const DeviceArray of_keys(keys.data(), keys.size() * 4, 0);
  const DeviceArray of_classes(classes.data(), classes.size() * 4, 0);
  const DeviceArray of_thresholds(thresholds.data(), thresholds.size() * 4, 0);
  const DeviceArray indices(wanted.size() * 4, 0);
  const NmsCall call{kGroups,
                     boxes,
                     outputs,
                     inclusive,
                     of_corners.as<float>(),
                     of_keys.as<int32_t>(),
                     of_classes.as<int32_t>(),
                     of_thresholds.as<float>(),
                     indices.as<int32_t>()};
  const int64_t words = cuda::NmsWords(call), each = 4 * kGroups;
  const DeviceArray order(each * boxes, 0), removed(each * words, 0);
  const DeviceArray mask(each * words * rows, 0), chosen(each, 0);
  NextOrder();
  Demand(cuda::Nms(call,
                   {order.as<int32_t>(), removed.as<int32_t>(),
                    mask.as<int32_t>(), chosen.as<int32_t>(), rows},
                   stream),
         "Nms");
  Demand(Wait(stream), "Nms");
  CompareCells("nms of " + std::to_string(boxes), indices.Read(), wanted);
}

int Main(int part, int parts) {
  const std::vector<Device> devices = Devices();
  Stream stream;
  Demand(MakeStream(&stream), "a stream");
  for (size_t i = part; i < std::size(kSizes); i += parts) {
    const Size& size = kSizes[i];
    uint64_t seed = 100 * i;
    for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
      for (const Element element : {Element::kFloat16, Element::kBFloat16,
                                    Element::kFloat32, Element::kFloat64}) {
        // Where vectors would be moved at once, also so that they cannot be.
        const bool vectors = layout == Layout::kNHWC &&
                             size.channels % 4 == 0 && size.groups > 1;
        for (const int64_t offset : {int64_t{0}, ElementBytes(element)}) {
          if (offset > 0 && !vectors) continue;
          Trial(size, layout, element, static_cast<size_t>(offset), seed++,
                stream)
              .Run(devices);
        }
      }
    }
  }
  if (part == 0) {
    RunNms(0, 3, 32, stream);
    RunNms(1, 1, 32, stream);
    RunNms(77, 200, 96, stream);
    RunNms(500, 300, 128, stream);
    RunNms(901, 40, 2048, stream);
  }
  Demand(Finish(stream), "the end");
  std::printf("%lld checks on %s, %lld of them failed\n",
              static_cast<long long>(checks), DeviceName().c_str(),
              static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace jax_roipool::driver

int main(int count, char** arguments) {
  const int parts = count == 3 ? std::atoi(arguments[2]) : 1;
  const int part = count == 3 ? std::atoi(arguments[1]) : 0;
  return parts > part && part >= 0 ? jax_roipool::driver::Main(part, parts) : 2;
}
