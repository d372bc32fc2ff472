// The gradient of boxes: a block for each RoI, whose threads take its bins and
// channels in turn, in the order that they lie in the cotangent, and where
// there are few of these each with a part of its rows.

#include <cstdint>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/work.h"
#include "ops/bands/calls.h"
#include "ops/bands/cuda.h"
#include "ops/bands/cuda_bands.h"
#include "ops/bands/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

constexpr int kCorners = 4;

template <typename Number>
struct BoxGradientArguments {
  BandsBoxGradientCall call;
  BandsMemory<Number, kSlopes, false> memory;
  int64_t parts;  // of the rows of a bin
};

// Which weights of an entry are not 0, a bit for each.
template <class Entry>
__device__ inline unsigned WeightsOf(const Entry& entry) {
  unsigned some = 0;
  for (int k = 0; k < kSlopes; ++k) {
    some |= static_cast<unsigned>(entry.weights[k] != 0) << k;
  }
  return some;
}

// sums[corner] += cotangent * the slope of one channel of a bin.
template <Element kElement>
__device__ void AddSlopes(
    const BoxGradientArguments<typename ElementOf<kElement>::Number>& a,
    int64_t roi, MapPlace at, int64_t item, double* sums) {
  using T = typename ElementOf<kElement>::Storage;
  using Number = typename ElementOf<kElement>::Number;
  const BandsBoxGradientCall& call = a.call;
  const Bins& bins = call.bins;
  const bool last = call.maps.layout == Layout::kNHWC;
  const Division part = Divide(item, bins.size());
  const Division place =
      Divide(part.remainder, last ? bins.channels : bins.count());
  const int64_t channel = last ? place.remainder : place.quotient;
  const Division bin =
      Divide(last ? place.quotient : place.remainder, bins.width);
  const auto rows = a.memory.Of(roi, true), columns = a.memory.Of(roi, false);
  const Range row = rows.bins[bin.quotient];
  const Range column = columns.bins[bin.remainder];
  if (row.begin == row.end || column.begin == column.end) return;

  const Level& level = call.maps.levels[at.level];
  const int64_t stride = last ? bins.channels : 1;
  const T* cells = MapData<const T>(call.maps, call.features, at) +
                   channel * (last ? 1 : level.cells());
  unsigned of_row = 0, of_column = 0;
  Number slopes[kCorners] = {};
  for (int64_t r = row.begin + part.quotient; r < row.end; r += a.parts) {
    const auto entry = rows.entries[r];
    const T* from = cells + entry.at * level.width * stride;
    Number inner[kSlopes] = {};
    for (int32_t c = column.begin; c < column.end; ++c) {
      const auto across = columns.entries[c];
      const Number number =
          ElementOf<kElement>::Widen(from[across.at * stride]);
      for (int k = 0; k < kSlopes; ++k) {
        // A weight of 0 never meets a NaN.
        if (across.weights[k] != 0) inner[k] += number * across.weights[k];
      }
      of_column |= WeightsOf(across);
    }
    if (entry.weights[0] != 0) {
      slopes[0] += inner[1] * entry.weights[0];
      slopes[2] += inner[2] * entry.weights[0];
    }
    if (entry.weights[1] != 0) slopes[1] += inner[0] * entry.weights[1];
    if (entry.weights[2] != 0) slopes[3] += inner[0] * entry.weights[2];
    of_row |= WeightsOf(entry);
  }
  const double cotangent = ElementOf<kElement>::Widen(static_cast<const T*>(
      call.cotangent)[roi * bins.size() + part.remainder]);
  // Nor does a slope that no weights make.
  const bool some[kCorners] = {(of_row & 1) != 0 && (of_column & 2) != 0,
                               (of_row & 2) != 0 && (of_column & 1) != 0,
                               (of_row & 1) != 0 && (of_column & 4) != 0,
                               (of_row & 4) != 0 && (of_column & 1) != 0};
  for (int corner = 0; corner < kCorners; ++corner) {
    if (some[corner]) sums[corner] += cotangent * slopes[corner];
  }
}

template <Element kElement>
__global__ void __launch_bounds__(kThreads, kBandsBlocksTogether) BoxGradients(
    const BoxGradientArguments<typename ElementOf<kElement>::Number> a) {
  const BandsBoxGradientCall& call = a.call;
  auto* shared = reinterpret_cast<double*>(SharedMemory()) + threadIdx.x;
  TakeTurns(call.rois.count(), [&](int64_t roi) {
    const int64_t map = MapOf(call, roi);
    double sums[kCorners] = {};
    if (map >= 0) {
      const MapPlace at = PlaceOf(call.maps, map);
      for (int64_t i = threadIdx.x; i < call.bins.size() * a.parts;
           i += kThreads) {
        AddSlopes<kElement>(a, roi, at, i, sums);
      }
    }
    for (int i = 0; i < kCorners; ++i) shared[i * kThreads] = sums[i];
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.x) < half) {
        for (int i = 0; i < kCorners; ++i) {
          sums[i] += shared[i * kThreads + half];
          shared[i * kThreads] = sums[i];
        }
      }
      __syncthreads();
    }
    if (threadIdx.x > 0) return;
    for (int i = 0; i < kCorners; ++i) {
      const int64_t place = kCorners * roi + i;
      if (call.wide_boxes) {
        static_cast<double*>(call.gradient)[place] = sums[i];
      } else {
        static_cast<float*>(call.gradient)[place] = static_cast<float>(sums[i]);
      }
    }
  });
}

template <Element kElement>
Status BoxGradientAs(const BandsBoxGradientCall& call, void* workspace,
                     Stream stream) {
  using Number = typename ElementOf<kElement>::Number;
  BoxGradientArguments<Number> a{call, {call, workspace}, 1};
  const Status status = LaunchMakeBands(call, a.memory, stream);
  if (status != kSuccess) return status;
  const int64_t size = call.bins.size();
  if (size > 0 && size < kThreads) a.parts = kThreads / size;
  return Launch(BoxGradients<kElement>, BlocksFor(call.rois.count()), kThreads,
                kCorners * kThreads * sizeof(double), stream, a);
}

}  // namespace

int64_t BandsWorkspace(const BandsBoxGradientCall& call) {
  return BytesOfBands<kSlopes, false>(call);
}
Status RunBands(const BandsBoxGradientCall& call, void* workspace,
                Stream stream) {
  return ForElement(call.maps.element, [&](auto tag) {
    return BoxGradientAs<decltype(tag)::kValue>(call, workspace, stream);
  });
}

}  // namespace jax_roipool::cuda
