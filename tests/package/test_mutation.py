"""The checks of arguments, wrong in one place at a time: a test notices each."""

import pathlib
import subprocess
import sys

import pytest

# What stays unnoticed, and why.
EQUIVALENT = {
    "1 -> 2 in: images = features[0] if len(features) == 4 else 1": (
        "how many images one map is: only compared with 2**31"
    ),
    "1 -> 2 in: index = np.where(index < 0, -1, np.trunc(index))": (
        "neither is the index of an image"
    ),
}
TESTS = [
    "tests/ops/test_errors.py",
    "tests/ops/test_values.py::test_float64_indices_of_numpy_are_not_rounded",
    "tests/ops/test_values.py::test_wide_integers_do_not_wrap",
    "--one-isa",
    "-knot plain",
]


@pytest.mark.nightly
def test_every_mutant_of_the_checks_is_noticed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate", "jax_roipool.arguments", *TESTS],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    alive = [line for line in done.stdout.splitlines() if "survives: " in line]
    assert {line.split("survives: ")[1] for line in alive} == EQUIVALENT.keys()
    assert " noticed" in done.stdout
