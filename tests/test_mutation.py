"""The checks of arguments, wrong in one place at a time: a test notices each."""

import pathlib
import subprocess
import sys

import pytest

# What stays unnoticed, and why.
EQUIVALENT = {
    "line 241: 1 -> 2": "how many images one map is: only compared with 2**31",
}
TESTS = [
    "tests/test_errors.py",
    "tests/test_values.py::test_float64_indices_of_numpy_are_not_rounded",
    "tests/test_values.py::test_wide_integers_do_not_wrap",
]


@pytest.mark.nightly
def test_every_mutant_of_the_checks_is_noticed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate", "jax_roipool.checks", *TESTS],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    alive = [line for line in done.stdout.splitlines() if "survives: " in line]
    assert {line.split("survives: ")[1] for line in alive} == EQUIVALENT.keys()
    assert " noticed" in done.stdout
