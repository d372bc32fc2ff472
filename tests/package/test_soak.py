"""The soak still runs; `make soak` is the one that tells."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("hypothesis")

from tests import soak


@pytest.mark.nightly
def test_a_round_of_it():
    if not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "1"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "random calls equal to the oracle's: 25" in done.stdout
    assert "repeated calls, from 3 threads: 200" in done.stdout


@pytest.mark.parametrize(("last", "code"), [(100, 0), (102, 0), (104, 1)])
def test_memory_that_grows_is_told(last, code, monkeypatch, capsys):
    memory = [50 << 20, *[100 << 20] * 5, *[last << 20] * 3]
    counted = soak.collections.Counter()
    monkeypatch.setattr(soak, "soak", lambda seconds: (memory, counted, counted, 0))
    assert soak.main([]) == code
    assert f"{last}.0 MiB in the last: {last - 100:+.2f}%" in capsys.readouterr().out
