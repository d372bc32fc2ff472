// nms as tests know it.

#include "op.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "nms/nms_definition.h"
#include "nms/nms_input.h"

namespace jax_roipool::native {
namespace {

constexpr float kNumbers[] = {
    0.0f,    -0.0f,    1.0f,     3.0f,     10.0f,    -5.0f,    1e6f,
    -1e6f,   1e18f,    1.3e19f,  2e19f,    -1e19f,   0x1p60f,  0x1p61f,
    0x1p63f, 3e38f,    -3e38f,   3.4e38f,  1e-20f,   1e-23f,   1e-38f,
    1e-45f,  0x1p-50f, 0x1p-49f, 0x1p-51f, 1.5e-15f, INFINITY, NAN};

float Number(Reader* bytes, uint8_t kind) {
  switch (kind % 4) {
    case 0:  // small and equal ones are frequent
      return static_cast<float>(bytes->Byte() % 12);
    case 1:
      return static_cast<float>(bytes->Byte()) * 0.75f - 9;
    case 2:
      return bytes->Of(kNumbers);
    default: {
      const uint32_t word = bytes->Word();
      float number;
      std::memcpy(&number, &word, sizeof(number));
      return number;
    }
  }
}

}  // namespace

std::string NmsInput::Describe() const {
  return std::to_string(groups) + " groups of " + std::to_string(boxes) +
         " boxes, " + std::to_string(outputs) + " outputs, inclusive " +
         std::to_string(inclusive);
}

NmsInput MakeNmsInput(Reader* bytes) {
  NmsInput input{};
  const uint8_t kind = bytes->Byte();
  input.groups = kind % 4;
  input.inclusive = (kind & 4) != 0;
  input.flush = (kind & 8) != 0 ? Flush::kBegin : Flush::kEnd;
  // More than a block's, now and then.
  input.boxes = bytes->Byte() % 40;
  if (kind >= 224) input.boxes = 150 + 3 * input.boxes;
  input.outputs = kind % 16 == 5 ? 0 : bytes->Byte() % 64;
  if (kind >= 224) input.outputs = 4 * input.outputs;
  const uint8_t corners = bytes->Byte(), keys = bytes->Byte();
  const uint8_t classes = bytes->Byte();
  input.seed = bytes->Word();
  Random random(input.seed);
  for (int64_t i = 0; i < input.groups * input.boxes; ++i) {
    float box[4];
    if (kind >= 224) {  // more than there are bytes for
      for (float& corner : box) corner = 0.5f * random.Below(100);
    } else {
      for (float& corner : box) corner = Number(bytes, corners);
    }
    if ((corners & 16) == 0) {  // mostly not inverted
      if (box[0] > box[2]) std::swap(box[0], box[2]);
      if (box[1] > box[3]) std::swap(box[1], box[3]);
    }
    input.corners.insert(input.corners.end(), box, box + 4);
    constexpr int32_t kKeys[] = {kNeverChosen, kNeverChosen + 1, -1, 0, 1, 7,
                                 INT32_MAX};
    constexpr int32_t kClasses[] = {INT32_MIN, -1, 0, 1, 2, INT32_MAX};
    const uint64_t drawn = random.Next();
    input.keys.push_back(keys % 2 == 0 ? kKeys[drawn % std::size(kKeys)]
                                       : static_cast<int32_t>(drawn >> 8));
    input.classes.push_back(classes % 4 < 2 ? 0
                            : classes % 4 == 2
                                ? kClasses[(drawn >> 40) % std::size(kClasses)]
                                : static_cast<int32_t>(drawn >> 40) % 300);
    bool finite = true;
    for (const float corner : box) finite = finite && std::isfinite(corner);
    if (!finite && (keys & 4) == 0) input.keys.back() = kNeverChosen;
    input.hostile =
        input.hostile || (!finite && input.keys.back() != kNeverChosen);
  }
  for (int64_t group = 0; group < input.groups; ++group) {
    constexpr float kThresholds[] = {
        0.0f,  -0.0f, 0.5f,  0.25f,  1.0f / 3, 2.0f / 3, 0.3f,     0.7f, 1.0f,
        1e-7f, 1e-6f, -1.0f, 1e-30f, 2.0f,     1e30f,    INFINITY, NAN};
    input.thresholds.push_back(bytes->Of(kThresholds));
  }
  return input;
}

std::vector<int32_t> ExpectNms(const NmsInput& input) {
  std::vector<int32_t> expected;
  for (int64_t group = 0; group < input.groups; ++group) {
    const int64_t first = group * input.boxes;
    const std::vector<int32_t> chosen = definition::Nms(
        input.corners.data() + 4 * first, input.keys.data() + first,
        input.classes.data() + first, input.boxes,
        input.thresholds[static_cast<size_t>(group)], input.outputs,
        input.inclusive);
    expected.insert(expected.end(), chosen.begin(), chosen.end());
  }
  return expected;
}

NmsCall NmsArrays::Place(const NmsInput& input) {
  const auto place = [&input](const auto& values, Guarded* memory) {
    memory->Place(values.data(), values.size() * sizeof(values[0]),
                  input.flush);
  };
  place(input.corners, &corners_);
  place(input.keys, &keys_);
  place(input.classes, &classes_);
  place(input.thresholds, &thresholds_);
  indices_.Place(static_cast<size_t>(input.groups * input.outputs * 4),
                 input.flush);
  return {input.groups,           input.boxes,
          input.outputs,          input.inclusive,
          corners_.as<float>(),   keys_.as<int32_t>(),
          classes_.as<int32_t>(), thresholds_.as<float>(),
          indices_.as<int32_t>()};
}

bool NmsArrays::Right(const NmsInput& input,
                      const std::vector<int32_t>& expected) const {
  const bool whole = corners_.Holds(input.corners.data()) &&
                     keys_.Holds(input.keys.data()) &&
                     classes_.Holds(input.classes.data()) &&
                     thresholds_.Holds(input.thresholds.data());
  if (!whole || !indices_.AroundIsWhole()) {
    std::fprintf(stderr, "nms: wrote elsewhere\n");
    return false;
  }
  const auto* indices = indices_.as<int32_t>();
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool right = input.hostile
                           ? indices[i] >= -1 && indices[i] < input.boxes
                           : indices[i] == expected[i];
    if (right) continue;
    std::fprintf(stderr, "nms: index %zu is %d and not %d\n", i, indices[i],
                 expected[i]);
    return false;
  }
  return true;
}

// What the fuzz target has of it.
namespace {

int64_t FuzzNms(Reader* bytes) {
  const NmsInput input = MakeNmsInput(bytes);
  const std::vector<int32_t> expected = ExpectNms(input);
  if (expected.empty()) return 0;  // handlers begin nothing
  for (const NmsRunner& runner : Registered<NmsRunner>::All()) {
    if (!runner.run(input, expected)) {
      std::fprintf(stderr, "nms: %s\n", input.Describe().c_str());
      std::abort();
    }
  }
  return static_cast<int64_t>(Registered<NmsRunner>::All().size());
}

const Registered<Fuzzed> fuzzed({FuzzNms});

}  // namespace
}  // namespace jax_roipool::native
