// The ops that apply bands on CUDA: device pointers and sizes in, launches on a
// stream. Nothing waits, allocates or copies, so that every call can be
// recorded into a CUDA graph and replayed.

#ifndef JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_H_
#define JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_H_

#include <cstdint>

#include "cuda/device.h"
#include "ops/bands/calls.h"

namespace jax_roipool::cuda {

// Bytes of a call's workspace, which begins where a vector may.
int64_t BandsWorkspace(const BandsApplyCall& call);
int64_t BandsWorkspace(const BandsTransposeCall& call);
int64_t BandsWorkspace(const BandsBoxGradientCall& call);

Status RunBands(const BandsApplyCall& call, void* workspace, Stream stream);
Status RunBands(const BandsTransposeCall& call, void* workspace, Stream stream);
Status RunBands(const BandsBoxGradientCall& call, void* workspace,
                Stream stream);

}  // namespace jax_roipool::cuda

#endif  // JAX_ROIPOOL_CSRC_OPS_BANDS_CUDA_H_
