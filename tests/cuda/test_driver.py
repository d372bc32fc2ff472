"""The kernels without JAX: tests/cuda/driver, on a GPU and as C++."""

import subprocess
import sys

import pytest

from tests.cuda.driver import run
from tests.cuda.gpus import cuda_device


@pytest.mark.nightly
@pytest.mark.parametrize("sanitize", [False, True])
def test_on_the_host(sanitize):
    """Compiled by the sanitizers, too: every step beyond an array's end."""
    run.run_on_host(run.build_for_host(sanitize))


@pytest.mark.parametrize("mode", run.MODES)
def test_on_a_gpu(mode):
    if cuda_device() is None:
        pytest.skip("jax has no CUDA GPU here")
    done = subprocess.run(
        [sys.executable, run.__file__, mode],
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    for reason in ("is not installed", "No nvcc", "Device not supported"):
        if reason in said:
            pytest.skip(next(line for line in said.splitlines() if reason in line))
    assert done.returncode == 0, said
