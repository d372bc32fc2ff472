"""csrc without XLA and Python: tests/native, compiled as shipped.

`make asan` and `make tsan` compile the same with sanitizers, in CI.
"""

import subprocess
import sys

import pytest

from tests import compiled
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


@pytest.mark.parametrize(
    "step", ["10007", pytest.param("1", marks=pytest.mark.nightly)]
)
def test_coordinates_become_cells_as_integers_have_it(step, tmp_path):
    """Every float32, or some of them, and every bin of up to 2^14 cells."""
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", f"-I{compiled.CSRC}", "-pthread"]
    source, made = run.HERE / "exhaustion.cc", tmp_path / "exhaustion"
    subprocess.run([*compiled.compiler(), *flags, source, "-o", made], check=True)
    done = subprocess.run([made, step], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
