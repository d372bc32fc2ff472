// What max pooling means.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_MAX_MAX_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_MAX_MAX_DEFINITION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "definition.h"
#include "sizes.h"

namespace jax_roipool::definition {

inline void MaxPool(const Sizes& p, const Scale* scales, const double* map,
                    const float* boxes, Indices indices, double* pooled,
                    int32_t* argmax) {
  const Place to = PooledPlace(p);
  for (int64_t k = 0; k < p.rois.count(); ++k) {
    const float* box = boxes + 4 * k;  // x1, y1, x2, y2
    const int level = LevelOf(p, indices, k);
    const Place from = MapPlace(p, level);
    const Scale scale = scales[level];
    int64_t of = MapOf(p, indices, k);
    for (int side = 0; side < 4; ++side) {
      if (!std::isfinite(box[side])) of = -1;
    }
    for (int64_t i = 0; i < p.bins.height; ++i) {
      for (int64_t j = 0; j < p.bins.width; ++j) {
        Span rows{0, 0}, columns{0, 0};
        if (of >= 0) {
          rows = BinOf(box[1], box[3], scale.height, p.bins.height, i,
                       from.height);
          columns =
              BinOf(box[0], box[2], scale.width, p.bins.width, j, from.width);
        }
        for (int64_t c = 0; c < p.bins.channels; ++c) {
          double best = 0;
          int64_t cell = -1;
          for (int64_t y = rows.begin; y < rows.end; ++y) {
            for (int64_t x = columns.begin; x < columns.end; ++x) {
              const double value = map[from(of, y, x, c)];
              if (cell < 0 || value > best ||
                  (std::isnan(value) && !std::isnan(best))) {
                best = value;
                cell = y * from.width + x;
              }
            }
          }
          pooled[to(k, i, j, c)] = best;
          argmax[to(k, i, j, c)] = static_cast<int32_t>(cell);
        }
      }
    }
  }
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_MAX_MAX_DEFINITION_H_
