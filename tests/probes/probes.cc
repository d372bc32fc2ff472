// What Python asks of csrc and no op shows, for ctypes.

#include <cstdint>
#include <vector>

#include "core/align_samples.h"
#include "core/caffe_bins.h"
#include "core/sizes.h"
#include "ops/max/cpu_plan.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace jax_roipool;

EXPORTED void bin_bounds(float low, float high, float scale, int64_t num_bins,
                         int64_t extent, int32_t* bounds) {
  const BinAxis axis = MakeBinAxis(low, high, scale, num_bins);
  for (int64_t bin = 0; bin < num_bins; ++bin) {
    const Range range = BinRange(axis, bin, extent);
    *bounds++ = range.begin;
    *bounds++ = range.end;
  }
}

// The coordinates of samples inside of the map, [rois, num_bins, room]; what is
// not inside stays as it is.
EXPORTED void align_samples(const float* low, const float* high, int64_t rois,
                            float scale, int64_t num_bins, int64_t extent,
                            int64_t samples, bool aligned, int64_t room,
                            float* coordinates) {
  for (int64_t roi = 0; roi < rois; ++roi) {
    const SampleAxis<float> axis = MakeSampleAxis(
        low[roi], high[roi], scale, num_bins, samples, aligned);
    for (int64_t bin = 0; bin < num_bins; ++bin, coordinates += room) {
      SampledBin<float>(axis, bin).ForEachInside(
          extent, [&](int64_t sample, float at) {
            if (sample < room) coordinates[sample] = at;
          });
    }
  }
}

// Puts at most `room` tables there, three numbers each; how many there are.
EXPORTED int64_t shared_tables(int layout, const int64_t* map, int64_t rois,
                               const float* boxes, const int64_t* bins,
                               bool argmax, int64_t vector_bytes,
                               int64_t* tables, int64_t room) {
  const std::vector<int32_t> image_index(rois, 0);
  int32_t wanted = 0;
  MaxPoolCall call{};
  call.maps.layout = static_cast<Layout>(layout);
  call.maps.element = Element::kFloat32;
  call.maps.groups = call.maps.images = call.maps.num_levels = 1;
  call.maps.levels[0] = {map[0], map[1]};
  call.maps.channels = map[2];
  call.rois = {1, rois};
  call.bins = {bins[0], bins[1], map[2]};
  call.scales[0] = {1, 1};
  call.boxes = boxes;
  call.image_index = image_index.data();
  call.argmax = argmax ? &wanted : nullptr;
  const cpu::MaxPoolPlan plan = cpu::PlanMaxPool(call, vector_bytes, 1);
  int64_t count = 0;
  for (const cpu::MaxPoolUnit& unit : plan.units) {
    if (unit.source != cpu::CellSource::kSharedTable ||
        unit.channel_begin != 0) {
      continue;
    }
    if (count++ >= room) continue;
    *tables++ = unit.block.height;
    *tables++ = unit.block.width;
    *tables++ = unit.roi_end - unit.roi_begin;
  }
  return count;
}
