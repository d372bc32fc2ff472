#include "call.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "definition.h"
#include "max/max_definition.h"

namespace jax_roipool::native {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int32_t kMinInt32 = std::numeric_limits<int32_t>::min();

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// --- Sizes

int64_t Extent(Reader* bytes) {
  const int64_t byte = bytes->Byte();
  return byte < 208 ? byte % 26 : (byte - 207) * 6;
}

int64_t BinCount(Reader* bytes) {
  const int64_t byte = bytes->Byte();
  return byte < 240 ? 1 + byte % 8 : 1 + (byte - 240) * 3;
}

// Halves the largest of some sizes until they are worth less than `limit`.
template <typename Worth>
void Shrink(std::initializer_list<int64_t*> sizes, int64_t limit,
            const Worth& worth) {
  while (worth() > limit) {
    **std::max_element(sizes.begin(), sizes.end(),
                       [](int64_t* a, int64_t* b) { return *a < *b; }) /= 2;
  }
}

Sizes MakeSizes(Reader* bytes) {
  constexpr int64_t kGroups[] = {1, 1, 1, 1, 1, 1, 2, 3, 0};
  constexpr int64_t kImages[] = {1, 1, 1, 2, 3, 5, 0};
  constexpr int64_t kChannels[] = {1,  2,  3,  4,  5,  7,  8,  9,   15,  16, 17,
                                   24, 31, 32, 33, 47, 48, 63, 64,  65,  0,  6,
                                   10, 12, 14, 20, 40, 80, 96, 129, 160, 257};
  const uint8_t kind = bytes->Byte();
  const Layout layout = kind % 2 == 0 ? Layout::kNHWC : Layout::kNCHW;
  const auto element = static_cast<Element>(kind / 2 % kNumElements);
  const bool large = kind >= 252;
  const int64_t groups = bytes->Of(kGroups), images = bytes->Of(kImages);
  int64_t height = Extent(bytes), width = Extent(bytes);
  int64_t channels = bytes->Of(kChannels), rois = bytes->Byte() % 48;
  int64_t bins_height = BinCount(bytes), bins_width = BinCount(bytes);
  const int64_t much = large ? 16 : 1;
  Shrink({&height, &width, &channels}, 3000 * much,
         [&] { return groups * images * height * width * channels; });
  Shrink({&rois, &bins_height, &bins_width, &channels}, 2000 * much,
         [&] { return groups * rois * bins_height * bins_width * channels; });
  // What the definition may have to look at.
  Shrink({&rois, &height, &width}, 24000 * much, [&] {
    return groups * rois * std::max(height * width * channels, int64_t{1});
  });
  return Sizes(layout, element, groups, images, height, width, channels, rois,
               std::max<int64_t>(bins_height, 1),
               std::max<int64_t>(bins_width, 1));
}

// --- RoIs

float MakeScale(Reader* bytes) {
  constexpr float kScales[] = {
      1,    1, 1,      0.0625f, 0.5f,      0.25f,    2,        1.5f,
      0.1f, 3, 1e-30f, 1e30f,   0x1p-149f, 0x1p127f, 1 / 3.0f, 0.0625f};
  const uint8_t byte = bytes->Byte();
  if (byte < 240) return kScales[byte % std::size(kScales)];
  const float scale = FloatOf(bytes->Word() & 0x7fffffff);
  return std::isfinite(scale) && scale > 0 ? scale : 1;
}

float Corner(Reader* bytes, int64_t extent, float scale) {
  constexpr float kNear[] = {0, 0, 0.5f, -0.5f, 0.49999997f, 0.25f, -0.1f, 0};
  constexpr float kFar[] = {0,
                            -0.0f,
                            1e-40f,
                            0x1p-149f,
                            -0x1p-126f,
                            0.5f,
                            -0.5f,
                            0.49999997f,
                            -0.49999997f,
                            8388607.5f,
                            8388608.5f,
                            0x1p24f,
                            -0x1p24f,
                            0x1p24f + 2,
                            16777215,
                            0x1p31f,
                            -0x1p31f,
                            0x1p63f,
                            1e30f,
                            -1e30f,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::lowest(),
                            kInfinity,
                            -kInfinity,
                            kNaN,
                            -kNaN};
  const uint8_t kind = bytes->Byte();
  if (kind < 8) return kFar[bytes->Byte() % std::size(kFar)];
  if (kind < 14) return FloatOf(bytes->Word());
  if (kind < 18) {  // where float32 counts cells, and no halves of them
    const float far = 0x1p23f + static_cast<float>(bytes->Byte()) - 128;
    return (kind % 2 == 0 ? far : -far) / scale;
  }
  const auto cell =
      static_cast<float>(bytes->Byte() % (2 * extent + 4) - extent / 2 - 2);
  float at = (cell + kNear[kind % 8]) / scale;
  if (kind >= 200)
    at = std::nextafter(at, kind >= 228 ? kInfinity : -kInfinity);
  return at;
}

void MakeRois(Reader* bytes, Call* call) {
  const Sizes& p = call->sizes;
  for (int64_t k = 0; k < p.rois.count(); ++k) {
    const uint8_t kind = bytes->Byte();
    const Scale scale = call->scales[0];
    float box[4] = {0, 0, static_cast<float>(p.width() - 1) / scale.width,
                    static_cast<float>(p.height() - 1) / scale.height};
    if (kind % 8 != 0) {  // else all of the map
      for (int i = 0; i < 4; ++i) {
        box[i] = i % 2 == 0 ? Corner(bytes, p.width(), scale.width)
                            : Corner(bytes, p.height(), scale.height);
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (box[i] > box[i + 2] && kind % 8 < 7) std::swap(box[i], box[i + 2]);
    }
    call->boxes.insert(call->boxes.end(), box, box + 4);

    const int32_t hostile[] = {-1, static_cast<int32_t>(p.maps.images),
                               kMinInt32, kMaxInt32,
                               static_cast<int32_t>(-p.maps.images)};
    int32_t image = 0;
    if (p.maps.images > 1) {
      image = static_cast<int32_t>(kind / 8 % p.maps.images);
    }
    if (kind >= 248) image = static_cast<int32_t>(bytes->Word());
    if (kind >= 240 && kind < 248) image = bytes->Of(hostile);
    call->image_index.push_back(image);
  }
}

// More levels, of half the scale each and of half the cells or of any; and to
// which of them RoIs belong.
void MakeLevels(Reader* bytes, Call* call) {
  constexpr uint8_t kMost[] = {1, 1, 1, 2, 3, 4, 5, kMaxLevels};
  Maps& maps = call->sizes.maps;
  const int wanted = std::max<int>(bytes->Of(kMost), maps.num_levels);
  for (int i = 1; i < wanted; ++i) {
    const Scale finer = call->scales[i - 1];
    call->scales[i] = {std::max(finer.height / 2, 0x1p-149f),
                       std::max(finer.width / 2, 0x1p-149f)};
    if (i < maps.num_levels) continue;
    const Level& level = maps.levels[i - 1];
    const uint8_t kind = bytes->Byte();
    maps.levels[i] = {(level.height + 1) / 2, (level.width + 1) / 2};
    if (kind >= 192) maps.levels[i] = {kind % 7, kind % 5};
    if (kind >= 224) call->scales[i].height = MakeScale(bytes);
  }
  maps.num_levels = wanted;
  if (wanted == 1) return;
  constexpr int32_t kHostile[] = {-1, -2, kMinInt32, kMaxInt32, kMaxLevels};
  for (size_t k = 0; k < call->image_index.size(); ++k) {
    const uint8_t kind = bytes->Byte();
    call->level.push_back(kind < 240 ? (kind + static_cast<int32_t>(k)) % wanted
                                     : bytes->Of(kHostile));
    if (kind == 239) call->level.back() = wanted;
  }
}

// --- Numbers

Bits MakeElements(Element element, int64_t count, uint8_t kind, uint64_t seed) {
  constexpr double kSpecial[] = {
      0.0,       -0.0,  kNaN,  -kNaN, kInfinity, -kInfinity, 0x1p-149, -0x1p-24,
      0x1p-1074, 65504, 65520, -6e4,  3e38,      1,          -1,       0x1p-14};
  Random random(seed);
  const int64_t size = ElementBytes(element);
  Bits bits(count * size);
  // Of half the kinds a table, since to round each number would take long.
  unsigned char table[16 * 8];
  const auto fill = [&](const auto& value) {
    for (int i = 0; i < 16; ++i) definition::Store(element, value(i), table, i);
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(&bits[i * size], table + random.Below(16) * size, size);
    }
  };
  switch (kind % 8) {
    case 0:
    case 1:  // small integers: ties
      fill([](int i) { return i % 9 - 4; });
      break;
    case 2:  // and some that are none
      fill([&](int i) {
        return i < 13 ? i % 5 - 2 : kSpecial[random.Below(16)];
      });
      break;
    case 3:
      fill([&](int i) { return kSpecial[i]; });
      break;
    case 4:  // hardly anything but -inf
      fill([&](int i) {
        return i < 15 ? -kInfinity : kSpecial[random.Below(16)];
      });
      break;
    case 5:  // zeros of both signs
      fill([](int i) { return i % 2 == 0 ? 0.0 : -0.0; });
      break;
    default:  // any bits
      for (size_t i = 0; i < bits.size(); i += 2) {
        const uint64_t some = random.Next() >> 40;
        std::memcpy(&bits[i], &some, 2);
      }
  }
  if (kind >= 192 && count > 0) {  // a NaN, somewhere
    definition::Store(element, kNaN, bits.data(),
                      random.Below(static_cast<uint32_t>(count)));
  }
  return bits;
}

// Cells for gather and scatter: what pooling says, and what it never would.
std::vector<int32_t> MakeCells(const Call& call, uint8_t kind, uint64_t seed) {
  const Sizes& p = call.sizes;
  const auto cells = static_cast<int32_t>(p.cells(p.levels() - 1));
  const int32_t hostile[] = {-1,     -7,        cells,     cells + 5,
                             -cells, kMaxInt32, kMinInt32, cells - 1};
  std::vector<int32_t> result = call.argmax;
  if (kind % 4 == 0) return result;
  Random random(seed);
  for (int32_t& cell : result) {
    if (kind % 4 == 1 && random.Below(8) == 0) cell = hostile[random.Below(8)];
    if (kind % 4 == 2) cell = static_cast<int32_t>(random.Below(cells + 2)) - 1;
    if (kind % 4 == 3) cell = static_cast<int32_t>(random.Next() >> 32);
  }
  return result;
}

// What sampling ops are told, as the seed has it.
void MakeSamples(Call* call) {
  constexpr int64_t kSamples[] = {0, 2, 0, 1, 3, 0, 2, 40};
  Random random(call->seed + 3);
  call->aligned = random.Below(2) == 0;
  for (int64_t& samples : call->samples) samples = kSamples[random.Below(8)];
  if (call->sizes.maps.element != Element::kFloat64 || random.Below(2) == 0) {
    return;
  }
  for (const float corner : call->boxes) {
    const double more = random.Below(2) == 0 ? 0x1p-30 : 0;
    call->wide_boxes.push_back(corner * (1 + more));
  }
}

}  // namespace

Call MakeCall(Reader* bytes, bool sums_in_order) {
  const Sizes sizes = MakeSizes(bytes);
  return MakeCallOf(sizes, bytes, sums_in_order);
}

Call MakeCallOf(const Sizes& p, Reader* bytes, bool sums_in_order) {
  constexpr int64_t kThreads[] = {1, 2, 3, 4, 8, 33, 1000, 1};
  Call call{};
  call.sizes = p;
  call.scales[0] = {MakeScale(bytes), MakeScale(bytes)};
  call.threads = bytes->Of(kThreads);
  call.flush = bytes->Byte() % 4 == 0 ? Flush::kBegin : Flush::kEnd;
  const uint8_t map_kind = bytes->Byte();
  Kinds kinds{bytes->Byte(), bytes->Byte()};
  if (!sums_in_order) kinds.cotangent = 0;
  call.seed = bytes->Byte() << 8;
  call.seed |= bytes->Byte();
  MakeRois(bytes, &call);
  MakeLevels(bytes, &call);
  call.map = MakeElements(p.maps.element, call.sizes.map_numbers(), map_kind,
                          call.seed);
  Finish(kinds, &call);
  return call;
}

void Finish(Kinds kinds, Call* call) {
  const Sizes& p = call->sizes;
  const int64_t results = p.pooled_numbers();
  call->pooled.resize(results);
  call->argmax.resize(results);
  definition::MaxPool(p, call->scales,
                      Widened(p.maps.element, call->map).data(),
                      call->boxes.data(), call->indices(), call->pooled.data(),
                      call->argmax.data());
  call->cells = MakeCells(*call, kinds.cells, call->seed + 1);
  MakeSamples(call);
  call->cotangent =
      MakeElements(p.maps.element, results, kinds.cotangent, call->seed + 2);
}

Call OfLevel(const Call& call, int level) {
  Call one = call;
  Sizes& p = one.sizes;
  p.maps.num_levels = 1;
  p.maps.levels[0] = call.sizes.maps.levels[level];
  one.scales[0] = call.scales[level];
  for (size_t k = 0; k < call.level.size(); ++k) {
    if (call.level[k] != level) one.image_index[k] = -1;
  }
  one.level.clear();
  const int64_t bytes = ElementBytes(p.maps.element);
  const auto first =
      call.map.begin() + call.sizes.numbers_before(level) * bytes;
  one.map = Bits(first, first + p.map_numbers() * bytes);
  return one;
}

std::vector<double> Widened(Element element, const Bits& bits) {
  std::vector<double> values(bits.size() / ElementBytes(element));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = definition::Load(element, bits.data(), static_cast<int64_t>(i));
  }
  return values;
}

void RoundTo(Element element, std::vector<double>* values) {
  for (double& value : *values) {
    double rounded;  // room for every element
    definition::Store(element, value, &rounded, 0);
    value = definition::Load(element, &rounded, 0);
  }
}

std::string Call::Describe() const {
  constexpr const char* kElements[] = {"float16", "bfloat16", "float32",
                                       "float64"};
  const auto number = [](int64_t value) { return std::to_string(value); };
  const Sizes& p = sizes;
  return std::string(p.maps.layout == Layout::kNHWC ? "NHWC " : "NCHW ") +
         kElements[static_cast<int>(p.maps.element)] + ", " +
         number(p.maps.groups) + " groups of " + number(p.maps.images) +
         " maps of " + number(p.height()) + " x " + number(p.width()) + ", " +
         number(p.levels()) + " levels, " + number(p.maps.channels) +
         " channels, " + number(p.rois.per_group) + " RoIs, " +
         number(p.bins.height) + " x " + number(p.bins.width) + " bins, " +
         number(threads) + " threads";
}

}  // namespace jax_roipool::native
