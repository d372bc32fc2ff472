// Both pooling ops: the kernel for a call's layout and element.

#include <cstdint>

#include "core/elements.h"
#include "core/sizes.h"
#include "cuda/device.h"
#include "cuda/elements.h"
#include "ops/max/cuda.h"
#include "ops/max/cuda_channels_first.h"
#include "ops/max/cuda_channels_last.h"
#include "ops/max/cuda_tuning.h"

namespace jax_roipool::cuda {
namespace {

template <Element kElement, bool kArgmax>
Status PoolAs(const MaxPoolCall& call, const Device& device, Stream stream) {
  if (call.maps.layout == Layout::kNCHW) {
    return LaunchChannelsFirst<kElement, kArgmax>(call, device, stream);
  }
  constexpr int kVector =
      kVectorBytes / sizeof(typename ElementOf<kElement>::Storage);
  if (ChannelsAligned(call.maps, kVector, call.features,
                      {call.pooled, call.argmax})) {
    return LaunchChannelsLast<kElement, kArgmax, kVector>(call, device, stream);
  }
  return LaunchChannelsLast<kElement, kArgmax, 1>(call, device, stream);
}

}  // namespace

Status MaxPool(const MaxPoolCall& call, const Device& device, Stream stream) {
  return ForElement(call.maps.element, [&](auto tag) {
    constexpr Element kElement = decltype(tag)::kValue;
    return call.argmax == nullptr
               ? PoolAs<kElement, false>(call, device, stream)
               : PoolAs<kElement, true>(call, device, stream);
  });
}

}  // namespace jax_roipool::cuda
