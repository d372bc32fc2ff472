"""Every test of values runs on every implementation that this machine has."""

import contextlib

import jax
import pytest

from jax_roipool import lowering
from tests import cuda_on_host


def pytest_collection_modifyitems(items):
    """Plain JAX, slow to compile, meets every dtype in one layout by day."""
    for item in items:
        params = getattr(item, "callspec", None) and item.callspec.params
        if (
            params
            and params.get("implementation") == lowering.PORTABLE
            and params.get("layout") == "NCHW"
            and params.get("dtype", "float32") != "float32"
        ):
            item.add_marker(pytest.mark.nightly)


def _in_force(target):
    before = lowering.cpu_target()
    lowering.set_cpu_target(target)
    yield target
    lowering.set_cpu_target(before)


@pytest.fixture(
    params=[*lowering.supported_cpu_targets(), cuda_on_host.NAME], scope="session"
)
def implementation(request):
    """An instruction set of the kernels, "portable", or CUDA's as C++, in force."""
    if request.param == cuda_on_host.NAME:
        with cuda_on_host.use():
            yield request.param
    else:
        yield from _in_force(request.param)


@pytest.fixture(
    params=[
        target
        for target in lowering.supported_cpu_targets()
        if target != lowering.PORTABLE
    ],
    scope="session",
)
def kernel_implementation(request):
    """An instruction set of the kernels in force: for what only they know."""
    yield from _in_force(request.param)


@pytest.fixture(params=["kernels", "portable"])
def lowered_to(request):
    """Both lowerings, where instruction sets make no difference."""
    targets = lowering.supported_cpu_targets()
    if request.param == "kernels" and targets[0] == lowering.PORTABLE:
        pytest.skip(lowering.cpu_problem())
    yield from _in_force(targets[0 if request.param == "kernels" else -1])


@pytest.fixture
def kernels():
    """The kernels as a user gets them; skips where there are none."""
    best = lowering.supported_cpu_targets()[0]
    if best == lowering.PORTABLE:
        pytest.skip(lowering.cpu_problem())
    yield from _in_force(best)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def wide(dtype: str):
    """The context in which arrays of `dtype` exist."""
    if dtype in ("float64", "int64", "uint64"):
        return jax.enable_x64(True)
    return contextlib.nullcontext()
