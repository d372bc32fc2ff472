// Both pooling ops: the kernel for a call's layout and element.

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/pool_channels_first.h"
#include "cuda/pool_channels_last.h"
#include "cuda/tuning.h"
#include "problem.h"

namespace jax_roipool::cuda {
namespace {

// Whether vectors of `count` elements lie where they can be moved at once.
// XLA's own buffers do; slices of them need not.
bool Aligned(const PoolCall& call, int64_t count) {
  const int64_t bytes = ElementBytes(call.problem.element);
  const auto at = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
  };
  return call.problem.channels % count == 0 && count * bytes <= kVectorBytes &&
         at(call.features) && at(call.pooled) && at(call.argmax);
}

template <Element kElement, bool kArgmax>
Status PoolAs(const PoolCall& call, const Device& device, Stream stream) {
  if (call.problem.layout == Layout::kNCHW) {
    return LaunchChannelsFirst<kElement, kArgmax>(call, device, stream);
  }
  constexpr int kVector =
      kVectorBytes / sizeof(typename ElementOf<kElement>::Storage);
  if (Aligned(call, kVector)) {
    return LaunchChannelsLast<kElement, kArgmax, kVector>(call, device, stream);
  }
  return LaunchChannelsLast<kElement, kArgmax, 1>(call, device, stream);
}

}  // namespace

Status Pool(const PoolCall& call, const Device& device, Stream stream) {
  return ForElement(call.problem.element, [&](auto tag) {
    constexpr Element kElement = decltype(tag)::kValue;
    return call.argmax == nullptr
               ? PoolAs<kElement, false>(call, device, stream)
               : PoolAs<kElement, true>(call, device, stream);
  });
}

}  // namespace jax_roipool::cuda
