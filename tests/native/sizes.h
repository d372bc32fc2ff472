// Sizes of a call, as csrc knows them.

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

  int levels() const { return maps.num_levels; }
  int64_t height(int level = 0) const { return maps.levels[level].height; }
  int64_t width(int level = 0) const { return maps.levels[level].width; }
  int64_t cells(int level = 0) const { return maps.levels[level].cells(); }
  // Numbers in the maps of a level, in those before, in all maps, and in all
  // results.
  int64_t level_numbers(int level) const {
    return maps.count() * maps.map_size(level);
  }
  int64_t numbers_before(int level) const {
    return level == 0 ? 0
                      : numbers_before(level - 1) + level_numbers(level - 1);
  }
  int64_t map_numbers() const { return numbers_before(levels()); }
  int64_t pooled_numbers() const { return rois.count() * bins.size(); }
};

}  // namespace jax_roipool

#endif  // JAX_ROIPOOL_TESTS_NATIVE_SIZES_H_
