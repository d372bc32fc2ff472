"""examples/data_parallel.py: one process, two, and two of which one is killed."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "data_parallel.py"
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
}
WITHIN = 90  # seconds, on a machine that is busy; the heartbeat is 10


def run(*arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(text):
    return [float(x) for x in re.findall(r"loss (\S+)", text)]


def test_two_processes_give_the_gradient_of_one(tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    alone = run("--steps", 21, "--save", one)
    assert "1 process(es), 4 cpu device(s)" in alone
    together = run("--steps", 21, "--save", two, "--local", 2)
    assert "2 process(es), 8 cpu device(s)" in together
    np.testing.assert_allclose(losses(together), losses(alone), atol=2e-3)
    assert losses(alone)[-1] < 0.6 * losses(alone)[0]
    with np.load(one) as want, np.load(two) as got:
        assert set(got) == set(want)
        for name in want:
            assert np.abs(want[name]).max() > 0.01
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_images_that_devices_do_not_divide():
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--images", "6"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--images must be a multiple of 4" in done.stderr


@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_process_ends_when_one_is_killed(killed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, EXAMPLE, "--coordinator", address, "--processes", "2"]
            + ["--process", str(i), "--steps", "1000000", "--heartbeat", "10"],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for line in processes[0].stdout:
            if line.startswith("step   10"):
                break
        processes[killed].send_signal(signal.SIGKILL)
        start = time.monotonic()
        assert processes[1 - killed].wait(timeout=WITHIN) != 0
        assert time.monotonic() - start < WITHIN
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def test_nothing_is_left_when_one_of_a_launch_is_killed():
    launcher = subprocess.Popen(
        [sys.executable, EXAMPLE, "--local", "2", "--steps", "1000000"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in launcher.stdout:
            if line.startswith("step   10"):
                break
        children = _children(launcher.pid)
        assert len(children) == 2
        os.kill(children[1], signal.SIGKILL)
        assert launcher.wait(timeout=WITHIN) == 1
        assert not any(pathlib.Path(f"/proc/{child}").exists() for child in children)
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


def _children(pid):
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("no /proc here")
    return [int(child) for child in path.read_text().split()]
