"""RoI max pooling on CPU: ours beside its peers, in one run.

    make bench
    python benchmarks/roi_pool_cpu.py --workload vgg16_test,tiny --layout NCHW

One table per workload: median and minimum in milliseconds, and each peer's
median over ours. Peers are ONNX Runtime's MaxRoiPool, OpenVINO's ROIPooling and
torchvision's roi_pool, each used where it is importable and given its own layout
(NCHW). All get the same number of threads, take turns call by call, and rotate
between two inputs.

Everybody's pooled values are checked before they are timed, against maxima taken
bin by bin in NumPy. OpenVINO divides bins in integers instead of float32, so its
differing values are counted and not held against it.

Times include JAX's dispatch. Ours and the peers' allocate their outputs in each
call, as their users do; the allocator is the C library's.
"""

import argparse
import dataclasses
import gc
import json
import os
import pathlib
import platform
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Feature map [N, H, W, C], RoIs as proposals are, bins, scale."""

    shape: tuple[int, int, int, int]
    rois: int
    size: int
    scale: float
    pixels: tuple[float, float] = (16, 600)  # side of a RoI, log-uniform

    def make_rois(self, seed: int = 0) -> np.ndarray:
        """[K, 5]: aspect 0.5 to 2, clipped to the image."""
        images, height, width, _ = self.shape
        limit = np.array([width, height]) / self.scale - 1
        rng = np.random.default_rng(seed)
        side = np.exp(rng.uniform(*np.log(self.pixels), self.rois))
        aspect = np.exp(rng.uniform(np.log(0.5), np.log(2), self.rois))
        half = np.stack([side * np.sqrt(aspect), side / np.sqrt(aspect)], 1) / 2
        centre = rng.uniform(0, 1, (self.rois, 2)) * limit
        index = rng.integers(0, images, (self.rois, 1))
        corners = np.clip(np.hstack([centre - half, centre + half]), 0, [*limit] * 2)
        return np.hstack([index, corners]).astype(np.float32)


WORKLOADS = {
    "vgg16_test": Workload((1, 38, 63, 512), 300, 7, 1 / 16),
    "vgg16_train": Workload((2, 38, 63, 512), 256, 7, 1 / 16),
    "resnet_c4": Workload((2, 50, 84, 1024), 1000, 14, 1 / 16),
    "fpn_p2": Workload((2, 200, 336, 256), 1000, 7, 1 / 4, (16, 112)),
    "huge_rois": Workload((1, 100, 168, 256), 300, 7, 1 / 8, (700, 1600)),
    "tiny": Workload((1, 25, 25, 64), 16, 3, 1 / 16),
}

# A contestant makes, from features [N, H, W, C], a function of no arguments that
# computes and waits, and one that gives its last answer as [K, PH, PW, C].
Run = Callable[[], Any]


def expected(features: np.ndarray, rois: np.ndarray, load: Workload) -> np.ndarray:
    """Maxima bin by bin, by the oracle's bins."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from tests import oracle

    _, height, width, channels = features.shape
    pooled = np.zeros((len(rois), load.size, load.size, channels), features.dtype)
    for k, (index, x1, y1, x2, y2) in enumerate(rois):
        rows = oracle.bins(y1, y2, load.scale, load.size, height)
        columns = oracle.bins(x1, x2, load.scale, load.size, width)
        for i, (top, bottom) in enumerate(rows):
            strip = features[int(index), top:bottom]
            for j, (left, right) in enumerate(columns):
                if bottom > top and right > left:
                    pooled[k, i, j] = strip[:, left:right].max(axis=(0, 1))
    return pooled


# --- Contestants -------------------------------------------------------------


def ours(
    features: np.ndarray, rois: np.ndarray, load: Workload, layout: str, mode: str
) -> tuple[Run, Run]:
    """This package, as `mode` says: forward, argmax, or forward and backward."""
    import jax
    import jax.numpy as jnp

    from jax_roipool import roi_pool, roi_pool_with_argmax

    if layout == "NCHW":
        features = np.moveaxis(features, -1, 1)
    on_device = jnp.array(np.ascontiguousarray(features)), jnp.array(rois)

    def pool(f: jax.Array, r: jax.Array) -> jax.Array:
        return roi_pool(f, r, load.size, load.scale, layout=layout)

    def forward_and_backward(f: jax.Array, r: jax.Array) -> tuple[Any, ...]:
        pooled, vjp = jax.vjp(lambda f: pool(f, r), f)
        return pooled, *vjp(pooled)

    def argmax(f: jax.Array, r: jax.Array) -> tuple[Any, ...]:
        return roi_pool_with_argmax(f, r, load.size, load.scale, layout=layout)

    modes = {"forward": pool, "argmax": argmax, "backward": forward_and_backward}
    run = jax.jit(modes[mode]).lower(*on_device).compile()

    def answer() -> np.ndarray:
        result = run(*on_device)
        pooled = np.asarray(result if mode == "forward" else result[0])
        return np.moveaxis(pooled, 1, -1) if layout == "NCHW" else pooled

    return lambda: jax.block_until_ready(run(*on_device)), answer


def onnxruntime(
    features: np.ndarray, rois: np.ndarray, load: Workload, threads: int
) -> tuple[Run, Run]:
    """ONNX Runtime's MaxRoiPool; float32."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    nchw = np.ascontiguousarray(np.moveaxis(features, -1, 1))
    node = helper.make_node(
        "MaxRoiPool",
        ["x", "rois"],
        ["y"],
        pooled_shape=[load.size] * 2,
        spatial_scale=load.scale,
    )
    graph = helper.make_graph(
        [node],
        "roi_pool",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, nchw.shape),
            helper.make_tensor_value_info("rois", TensorProto.FLOAT, rois.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run() -> Any:
        return session.run(None, {"x": nchw, "rois": rois})[0]

    return run, lambda: np.moveaxis(run(), 1, -1)


def openvino(
    features: np.ndarray, rois: np.ndarray, load: Workload, threads: int
) -> tuple[Run, Run]:
    """OpenVINO's ROIPooling, method max; float32."""
    # Its usage report starts a process, of which JAX would warn.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    import openvino as ov
    from openvino import opset8

    nchw = np.ascontiguousarray(np.moveaxis(features, -1, 1))
    x = opset8.parameter(nchw.shape, np.float32)
    boxes = opset8.parameter(rois.shape, np.float32)
    node = opset8.roi_pooling(x, boxes, [load.size] * 2, load.scale, "max")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(ov.Model([node], [x, boxes]), "CPU", settings)
    request = model.create_infer_request()
    inputs = [ov.Tensor(nchw, shared_memory=True), ov.Tensor(rois, shared_memory=True)]

    def run() -> Any:
        return request.infer(inputs)

    return run, lambda: np.moveaxis(np.array(run()[0]), 1, -1)


def torchvision(
    features: np.ndarray, rois: np.ndarray, load: Workload, threads: int
) -> tuple[Run, Run]:
    """The roi_pool of torchvision, which always computes the argmax."""
    import torch
    import torchvision.ops

    torch.set_num_threads(threads)
    nchw = torch.from_numpy(np.ascontiguousarray(np.moveaxis(features, -1, 1)))
    boxes = torch.from_numpy(rois)

    def run() -> Any:
        return torchvision.ops.roi_pool(nchw, boxes, load.size, load.scale)

    return run, lambda: np.moveaxis(run().numpy(), 1, -1)


PEERS = {"onnxruntime": onnxruntime, "openvino": openvino, "torchvision": torchvision}


# --- Measuring ---------------------------------------------------------------


def time_in_turns(
    contestants: dict[str, list[Run]], seconds: float, label: str
) -> dict[str, list[float]]:
    """Milliseconds of every call: all take turns, each rotates its inputs."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for runs in contestants.values():
        for run in runs:
            run()  # warm up
    gc.disable()
    start, turn = time.perf_counter(), 0
    while turn < 5 or (time.perf_counter() - start < seconds and turn < 500):
        for name, runs in contestants.items():
            before = time.perf_counter()
            runs[turn % len(runs)]()
            times[name].append((time.perf_counter() - before) * 1e3)
        turn += 1
        done = min((time.perf_counter() - start) / seconds, 1)
        if sys.stderr.isatty():
            bar = "#" * int(30 * done)
            print(f"\r{label:28} [{bar:30}]", end="", file=sys.stderr)
    gc.enable()
    if sys.stderr.isatty():
        print("\r" + " " * 62 + "\r", end="", file=sys.stderr)
    return times


def build(
    load: Workload, args: argparse.Namespace
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """The contestants of a workload, checked, and what is to be said of them."""
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, args.dtype, None) or args.dtype)
    contestants: dict[str, list[Run]] = {}
    notes: dict[str, str] = {}

    def add(name: str, make: Callable[..., tuple[Run, Run]], *more: Any) -> None:
        runs = []
        for seed in (1, 2):
            rng = np.random.default_rng(seed)
            features = rng.standard_normal(load.shape, np.float32).astype(dtype)
            rois = load.make_rois(seed)
            run, answer = make(features, rois, load, *more)
            if seed == 1:
                differing = np.count_nonzero(answer() != wanted(features, rois))
                if differing and name != "openvino":
                    raise SystemExit(f"{name}: {differing} values differ")
                if differing:
                    notes[name] = f"{differing} values differ (integer bins)"
            runs.append(run)
        contestants[name] = runs

    cache: dict[str, np.ndarray] = {}

    def wanted(features: np.ndarray, rois: np.ndarray) -> np.ndarray:
        if "pooled" not in cache:
            cache["pooled"] = expected(features, rois, load)
        return cache["pooled"]

    for layout in args.layout.split(","):
        for mode in ("forward", "argmax", "backward") if args.grad else ("forward",):
            add(f"ours {layout} {mode}", ours, layout, mode)
    for name, make in PEERS.items():
        if dtype != np.float32:
            notes[name] = "float32 only"
            continue
        try:
            add(name, make, args.threads)
        except ImportError as error:
            notes[name] = f"not installed ({error.name})"
    return contestants, notes


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    """Measures what the arguments name and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--workload", default=",".join(WORKLOADS), help="default: %(default)s")
    add("--layout", default="NHWC,NCHW", help="ours; default: %(default)s")
    add("--dtype", default="float32", help="features; default: %(default)s")
    add("--threads", type=int, default=cores, help="default: all cores")
    add("--grad", action="store_true", help="also with argmax, and with backward")
    add("--seconds", type=float, default=8.0, help="per workload")
    add("--json", type=pathlib.Path, help="also write the numbers here")
    args = parser.parse_args()
    if not 1 <= args.threads <= cores:
        parser.error(f"--threads must be 1 to {cores} here")
    unknown = set(args.workload.split(",")) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    # XLA takes as many threads as the process may use cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"

    import jax

    from jax_roipool import lowering

    about = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "threads": args.threads,
        "dtype": args.dtype,
        "cpu_target": lowering.cpu_target(),
        "jax": jax.__version__,
        "command": " ".join(["python", *sys.argv]),
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    results: dict[str, Any] = {"about": about, "workloads": {}}
    for name in args.workload.split(","):
        load = WORKLOADS[name]
        contestants, notes = build(load, args)
        times = time_in_turns(contestants, args.seconds, name)
        first = float(np.median(times[next(iter(times))]))
        size = "x".join(map(str, load.shape))
        print(f"\n{name}: {size}, {load.rois} RoIs, {load.size}x{load.size}")
        print(f"  {'':22}{'median ms':>10}{'min ms':>10}{'to first':>10}")
        rows = {}
        for contestant, values in times.items():
            median, least = float(np.median(values)), float(np.min(values))
            rows[contestant] = {"median_ms": median, "min_ms": least}
            print(
                f"  {contestant:22}{median:10.3f}{least:10.3f}{median / first:9.2f}x"
                f"  {notes.get(contestant, '')}"
            )
        for contestant in notes.keys() - times.keys():
            print(f"  {contestant:22}{notes[contestant]}")
        results["workloads"][name] = {"times": rows, "notes": notes}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
