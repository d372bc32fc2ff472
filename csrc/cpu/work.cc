#include "cpu/work.h"

#include <algorithm>

#include "core/boxes.h"

namespace jax_roipool::cpu {

RoisByMap SortByMap(const RoiCall& call, const float* boxes) {
  const Rois& rois = call.rois;
  const int64_t empty = call.maps.count_all();  // their place among the maps
  RoisByMap sorted;
  sorted.map_of.resize(rois.count());
  sorted.order.resize(rois.count());
  sorted.begin.assign(empty + 2, 0);
  for (int64_t roi = 0; roi < rois.count(); ++roi) {
    const bool finite = boxes == nullptr || IsFinite(LoadBox(boxes, roi));
    const int64_t map = finite ? MapOf(call, roi) : -1;
    sorted.map_of[roi] = map;
    sorted.begin[(map < 0 ? empty : map) + 1] += 1;
  }
  for (int64_t map = 0; map <= empty; ++map) {
    sorted.begin[map + 1] += sorted.begin[map];
  }
  std::vector<int64_t> next(sorted.begin.begin(), sorted.begin.end() - 1);
  for (int64_t roi = 0; roi < rois.count(); ++roi) {
    const int64_t map = sorted.map_of[roi] < 0 ? empty : sorted.map_of[roi];
    sorted.order[next[map]++] = roi;
  }
  return sorted;
}

int64_t PartsFor(int64_t threads) {
  constexpr int64_t kUnitsPerThread = 8;
  return threads > 1 ? threads * kUnitsPerThread : 1;
}

int64_t HelpersFor(double elements, int64_t units, int64_t threads) {
  // Elements for which another thread is worth waking: that takes some 10 us,
  // and much longer where cores are busy.
  constexpr int64_t kElementsPerHelper = 256 * 1024;
  const double worth = elements / kElementsPerHelper;
  const int64_t most = std::min(threads - 1, units - 1);
  return std::max<int64_t>(0, worth < static_cast<double>(most)
                                  ? static_cast<int64_t>(worth)
                                  : most);
}

}  // namespace jax_roipool::cpu
