// Sizes of a call of one level, as csrc knows them.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_SIZES_H_
#define JAX_ROIPOOL_TESTS_NATIVE_SIZES_H_

#include <cstdint>

#include "core/sizes.h"

namespace jax_roipool {

struct Sizes {
  Maps maps{};
  Rois rois{};
  Bins bins{};

  Sizes() = default;
  Sizes(Layout layout, Element element, int64_t groups, int64_t images,
        int64_t height, int64_t width, int64_t channels, int64_t rois_per_group,
        int64_t bins_height, int64_t bins_width) {
    maps.layout = layout;
    maps.element = element;
    maps.groups = groups;
    maps.images = images;
    maps.channels = channels;
    maps.num_levels = 1;
    maps.levels[0] = {height, width};
    rois = {groups, rois_per_group};
    bins = {bins_height, bins_width, channels};
  }

  int64_t height() const { return maps.levels[0].height; }
  int64_t width() const { return maps.levels[0].width; }
  int64_t cells() const { return maps.levels[0].cells(); }
  // Numbers in all maps, and in all results.
  int64_t map_numbers() const { return maps.count() * maps.map_size(); }
  int64_t pooled_numbers() const { return rois.count() * bins.size(); }
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_TESTS_NATIVE_SIZES_H_
