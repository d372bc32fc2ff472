"""The GPU that some tests need."""

import jax
import pytest

from jax_roipool import lowering


def cuda_device():
    """The first one that jax has, or None."""
    try:
        return jax.devices("cuda")[0]
    except RuntimeError:
        return None


def need_cuda():
    """That device; skips where there is none, or no kernels for it."""
    device = cuda_device()
    if device is None:
        pytest.skip("jax has no CUDA GPU here")
    if lowering.cuda_target() != lowering.KERNELS:
        pytest.skip(lowering.cuda_problem() or "the CUDA kernels are not in use")
    return device
