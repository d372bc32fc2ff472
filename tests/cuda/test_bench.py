"""The benchmark on a GPU, as far as it goes without one."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from tests.cuda.gpus import cuda_device

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "roi_pool_cuda.py", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_predictions(tmp_path):
    """Floors as counted by hand: features once and results once, at 4.3 TB/s."""
    path = tmp_path / "predicted.json"
    done = run("--predict", "--json", path)
    assert done.returncode == 0, done.stderr
    workloads = json.loads(path.read_text())["workloads"]
    wanted = {
        "vgg16_train": (8, 14, 14),
        "resnet_c4": (195, 381, 381),
        "fpn_p2": (44, 55, 55),
    }
    for name, floors in wanted.items():
        predicted = workloads[name]["predicted"]
        got = [predicted[m]["floor_us"] for m in ("forward", "argmax", "backward")]
        assert got == pytest.approx(floors, abs=0.5)
    # Halves of the features' bytes, and an argmax that stays.
    half = workloads["half"]["predicted"]
    one, other = (half[f"{x} backward"]["bytes"] for x in ("float32", "bfloat16"))
    assert one - other == 2 * (1000 * 14 * 14 * 1024 + 2 * 50 * 84 * 1024)


def test_padding_and_unnamed_images_need_not_be_read(bench):
    import numpy as np

    floors, workloads = bench("floors"), bench("workloads")
    load = workloads.Workload((3, 4, 5, 2), 4, 2, 1.0)
    rois = np.zeros((4, 5), np.float32)
    rois[3, 0] = 2
    moved = [
        floors.must_move(load, mode, "float16", rois, np.arange(4) < 2)
        for mode in ("forward", "argmax", "backward")
    ]
    image, results = 4 * 5 * 2 * 2, 4 * 2 * 2 * 2
    assert moved == [
        image + 2 * results,
        image + 6 * results,
        3 * image + 6 * results // 2,
    ]


def test_without_a_gpu():
    if cuda_device() is not None:
        pytest.skip("there is one")
    done = run("--workload", "tiny", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    (said,) = done.stderr.strip().splitlines()[-1:]
    assert said.startswith("no GPU that jax can use: ")
    assert "Traceback" not in done.stderr


def test_with_a_gpu(tmp_path):
    if cuda_device() is None:
        pytest.skip("jax has no CUDA GPU here")
    path = tmp_path / "tiny.json"
    short = ("--seconds", "0.3", "--plain-seconds", "0")
    done = run("--workload", "tiny", *short, "--json", path)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    rows = results["workloads"]["tiny"]["times"]
    assert [row["name"] for row in rows[:3]] == [
        f"ours NHWC {mode}" for mode in ("forward", "argmax", "backward")
    ]
    for row in rows:
        assert row["kernels_us"], row
        assert row["min_us"] <= row["median_us"]
    assert results["about"]["bandwidth_bytes_per_s"] > 1e10


def test_unknown_names():
    done = run("--predict", "--workload", "tiny,huge")
    assert done.returncode == 2
    assert "no such workload: huge; there are vgg16_test" in done.stderr


# --- Profiles -------------------------------------------------------------------

# What jax.profiler writes on a GPU: a plane per device, a line per stream, and
# lines that tell the same time again. Two calls of a memset and a kernel.
XPLANE = """
planes {
  id: 1 name: "/host:CPU"
  lines { id: 1 name: "python" events { metadata_id: 1 duration_ps: 9000000 } }
  event_metadata { key: 1 value { id: 1 name: "PjitFunction(pool)" } }
}
planes {
  id: 2 name: "/device:GPU:0"
  lines {
    id: 13 name: "Stream #13(Compute,Memset)" timestamp_ns: 1000
    events { metadata_id: 2 offset_ps: 0 duration_ps: 1500000 }
    events { metadata_id: 3 offset_ps: 2000000 duration_ps: 8000000 }
    events { metadata_id: 2 offset_ps: 20000000 duration_ps: 1000000 }
    events { metadata_id: 3 offset_ps: 22000000 duration_ps: 9000000 }
  }
  lines {
    id: 14 name: "Stream #14(MemcpyH2D)" timestamp_ns: 1000
    events { metadata_id: 4 offset_ps: 1000000 duration_ps: 5000000 }
  }
  lines {
    id: 99 name: "XLA Ops" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 0 duration_ps: 10000000 }
  }
  event_metadata { key: 2 value { id: 2 name: "Memset" } }
  event_metadata { key: 3 value { id: 3 name: "PoolChannelsLast<float, 4>" } }
  event_metadata { key: 4 value { id: 4 name: "MemcpyH2D" } }
}
"""

# What torch's export_chrome_trace writes: the same calls.
CHROME = {
    "traceEvents": [
        {"ph": "M", "name": "process_name", "ts": 0, "args": {"name": "python"}},
        *(
            {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}
            for cat, name, ts, dur in [
                ("cpu_op", "torchvision::roi_pool", 0, 40.0),
                ("cuda_runtime", "cudaLaunchKernel", 0.5, 3.0),
                ("kernel", "roi_pool_forward_kernel_impl<float>", 3.0, 8.0),
                ("gpu_memset", "Memset (Device)", 1.0, 1.5),
                ("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 2.0, 5.0),
                ("gpu_user_annotation", "a step", 0.0, 30.0),
                ("gpu_memset", "Memset (Device)", 21.0, 1.0),
                ("kernel", "roi_pool_forward_kernel_impl<float>", 23.0, 9.0),
            ]
        ),
    ]
}


def test_both_profiles_are_read_alike(bench):
    trace = bench("gpu_trace")
    ours = trace.of_jax(jax.profiler.ProfileData.from_text_proto(XPLANE))
    theirs = trace.of_torch(CHROME)
    for events, memset, kernel in (
        (ours, "Memset", "PoolChannelsLast<float, 4>"),
        (theirs, "Memset (Device)", "roi_pool_forward_kernel_impl<float>"),
    ):
        assert [event.name for event in events] == [memset, kernel] * 2
        assert [event.start for event in events] == [1.0, 3.0, 21.0, 23.0]
        assert trace.per_call(events, 2) == [9.5, 10.0]
        assert trace.by_name(events, 2) == {kernel: 8.5, memset: 1.25}


def test_pauses_tell_rows_apart(bench):
    trace = bench("gpu_trace")
    events = [trace.Event("k", at, 4.0) for at in (0, 5, 100, 104, 300)]
    assert [len(part) for part in trace.split(events, 50)] == [2, 2, 1]
    # A long kernel is no pause, even beside short ones on another stream.
    long = [trace.Event("long", 0, 200), trace.Event("k", 1, 1)]
    assert len(trace.split([*long, trace.Event("k", 210, 1)], 50)) == 1
    assert trace.split([], 50) == []


def test_calls_that_are_not_alike_have_a_mean(bench):
    trace = bench("gpu_trace")
    events = [trace.Event(name, at, 2.0) for at, name in enumerate("aabab")]
    assert trace.per_call(events, 2) == [5.0]
    assert trace.per_call(events[:4], 2) == [4.0]  # aa, ba


def test_what_jax_profiles_here_can_be_read(bench):
    """The format of this jax's files; a CPU leaves no stream of a GPU in them."""
    ours = bench("gpu_ours")
    run = jax.jit(lambda x: x + 1)
    events = ours.PROFILER.record(lambda: jax.block_until_ready(run(1.0)))
    assert cuda_device() is not None or events == []


# --- Measuring ------------------------------------------------------------------


def device_of(bench, launches, broken_pauses=False):
    """A profiler that sees `launches`, each [name, microseconds], as they come."""
    time_, trace = bench("gpu_time"), bench("gpu_trace")

    def record(run):
        launches.clear()
        before = time.perf_counter()
        run()
        return [
            trace.Event(name, 0 if broken_pauses else (at - before) * 1e6, us)
            for at, name, us in launches
        ]

    return time_.Profiler(record, lambda result: None)


@pytest.mark.parametrize("broken_pauses", [False, True])
def test_rows_get_their_own_time(bench, broken_pauses):
    gpu_time, launches = bench("gpu_time"), []

    def call(name, us):
        launches.append((time.perf_counter(), "small", 1.0))
        launches.append((time.perf_counter(), name, us))

    rows = [
        gpu_time.Row(
            f"row {us}", "forward", "float32", 10, [lambda us=us: call("k", us)] * 3
        )
        for us in (5.0, 50.0)
    ]
    profiler = device_of(bench, launches, broken_pauses)
    first, second = gpu_time.measure(rows, profiler, 0.01)
    assert (first["median_us"], second["median_us"]) == (6.0, 51.0)
    assert second["kernels_us"] == pytest.approx({"k": 50.0, "small": 1.0})
    assert first["sets"] == 3
    assert "note" not in first


def test_without_device_events_wall_time_stands_in(bench):
    gpu_time = bench("gpu_time")
    row = gpu_time.Row("row", "forward", "float32", 10, [lambda: time.sleep(1e-3)])
    (got,) = gpu_time.measure([row], device_of(bench, []), 0.01)
    assert got["median_us"] == got["queued_us"] >= 1000
    assert got["note"].endswith("wall time")


def test_more_than_twice_l2_is_touched(bench):
    needed = bench("gpu_time").sets_needed
    assert needed(35_000_000, 50_000_000) == 4
    assert needed(10**9, 50_000_000) == 2
    assert needed(1, 50_000_000) == 1000


@pytest.mark.parametrize("mode", ["forward", "argmax", "backward"])
def test_rows_of_ours(bench, mode):
    """On the CPU: checked, and all calls of the chain are there."""
    gpu_ours, workloads = bench("gpu_ours"), bench("workloads")
    sets = gpu_ours.Sets(workloads.WORKLOADS["tiny"], "bfloat16")
    l2 = sets.first(1)[0].features.nbytes
    ((row, chained),) = gpu_ours.rows(sets, "NCHW", [mode], l2, chain=True)
    assert row.name == f"ours NCHW {mode}"
    assert len(row.calls) >= 2
    jax.block_until_ready(row.calls[1]())
    assert chained > 0


def test_a_wrong_answer_is_noticed(bench):
    gpu_ours, inputs = bench("gpu_ours"), bench("inputs")
    sets = gpu_ours.Sets(bench("workloads").WORKLOADS["tiny"], "float16")
    first = sets.first(1)[0]
    first._kept["answers"] = {"pooled": gpu_ours.answers(first)["pooled"] + 0}
    gpu_ours.answers(first)["pooled"].reshape(-1)[3] += 1
    with pytest.raises(inputs.WrongAnswer, match="1 of 9216 of pooled differ"):
        list(gpu_ours.rows(sets, "NHWC", ["forward"], 1, chain=False))


def test_comparisons(bench):
    cuda = bench("roi_pool_cuda")
    names = ("name", "mode", "median_us", "dtype", "bytes")
    rows = [
        dict(zip(names, (*row, "float32", 4_000_000), strict=True))
        for row in [
            ("ours NHWC forward", "forward", 10.0),
            ("ours NHWC backward", "backward", 30.0),
            ("torchvision forward (with argmax)", "argmax", 40.0),
            ("torchvision backward", "backward", 60.0),
        ]
    ]
    cuda.compare(rows, 1e12)
    assert [row["to_torchvision"] for row in rows] == [0.25, 0.5, 1.0, 1.0]
    assert rows[0]["floor_us"] == pytest.approx(4.0)
    assert rows[0]["bandwidth_share"] == pytest.approx(0.4)


# --- Peers ----------------------------------------------------------------------


def test_peers_that_fail_or_take_too_long(bench):
    peers = bench("gpu_peers")
    with peers.Child(JAX_PLATFORMS="cpu") as child:
        assert child.ask(60, map, str, [1, 2]) == (["1", "2"], "")
        rows, why = child.ask(60, map, len, [[], None])
        assert rows == [0]
        assert why == "TypeError: object of type 'NoneType' has no len()"
        if cuda_device() is None:
            load = bench("workloads").WORKLOADS["tiny"]
            rows, why = child.ask(60, peers.torchvision, load, "float32", 1, 0.1)
            assert rows == []
            assert why.startswith(("not installed", "does not load", "this torch has"))
        rows, why = child.ask(0.5, map, time.sleep, [0, 60])
        assert (rows, why) == ([None], "stopped after 0 s")
        assert child.ask(60, map, str, [1])[0] == []
