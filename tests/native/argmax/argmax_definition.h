// What argmax_gather and argmax_scatter mean.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_ARGMAX_DEFINITION_H_
#define JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_ARGMAX_DEFINITION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "definition.h"
#include "sizes.h"

namespace jax_roipool::definition {

// Both ops, RoI by RoI and bin by bin: visit(place in pooled, place in
// the map or -1 where argmax or the the image index names none).
template <typename Visit>
void ForEachEntry(const Sizes& p, Indices indices, const int32_t* argmax,
                  const Visit& visit) {
  const Place in_pooled = PooledPlace(p);
  for (int64_t k = 0; k < p.rois.count(); ++k) {
    const int64_t of = MapOf(p, indices, k);
    const Place in_map = MapPlace(p, LevelOf(p, indices, k));
    for (int64_t i = 0; i < p.bins.height; ++i) {
      for (int64_t j = 0; j < p.bins.width; ++j) {
        for (int64_t c = 0; c < p.bins.channels; ++c) {
          const int64_t place = in_pooled(k, i, j, c);
          const int64_t cell = argmax[place];
          const bool one =
              of >= 0 && cell >= 0 && cell < in_map.height * in_map.width;
          visit(place,
                one ? in_map(of, cell / in_map.width, cell % in_map.width, c)
                    : -1);
        }
      }
    }
  }
}

inline void ArgmaxGather(const Sizes& p, const double* map, Indices indices,
                         const int32_t* argmax, double* pooled) {
  ForEachEntry(p, indices, argmax, [&](int64_t place, int64_t from) {
    pooled[place] = from < 0 ? 0 : map[from];
  });
}

// Sums in float32, of float64 in float64, one after another; `gradient` is not
// yet rounded to the element's type.
inline void ArgmaxScatter(const Sizes& p, const double* cotangent,
                          Indices indices, const int32_t* argmax,
                          double* gradient) {
  const bool wide = p.maps.element == Element::kFloat64;
  std::fill(gradient, gradient + p.map_numbers(), 0.0);
  ForEachEntry(p, indices, argmax, [&](int64_t place, int64_t to) {
    if (to < 0) return;
    if (wide) {
      gradient[to] += cotangent[place];
    } else {
      gradient[to] = static_cast<float>(gradient[to]) +
                     static_cast<float>(cotangent[place]);
    }
  });
}

}  // namespace jax_roipool::definition

#endif  // JAX_ROIPOOL_TESTS_NATIVE_ARGMAX_ARGMAX_DEFINITION_H_
