"""csrc without XLA and Python: tests/native, compiled as shipped.

`make asan` and `make tsan` compile the same with sanitizers, in CI.
"""

import subprocess
import sys

import pytest

from tests.native import run


def run_native(*arguments):
    done = subprocess.run(
        [sys.executable, run.__file__, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["plain", "asan"])
def test_cuda_kernels_are_fuzzed(mode):
    assert "executions reached a kernel" in run_native(mode, "--cuda")


@pytest.mark.nightly
def test_many_calls_are_right():
    """Arrays past 2^31 elements, too, and calls for which there is no memory."""
    said = run_native("plain", "--executions", "2000000", "--seed", "2")
    assert "limits: right" in said
    assert "memory: refused" in said


@pytest.mark.nightly
def test_every_line_is_reached():
    said = run_native("coverage", "--executions", "30000")
    assert said.endswith("100.0 %\n"), said
