"""`boxes.nms` on a CPU beside ONNX Runtime and torchvision.

    python benchmarks/nms.py
    python benchmarks/nms.py --seconds 20 --json nms.json

Boxes of 1000 x 600 pixels in clusters of 8, of which a third is chosen at 0.7. Every
answer is compared, index for index, with plain greedy suppression (tests/oracle)
before anything is timed. Contestants take turns; the times are medians of calls.

ours              `jax.jit` of `nms`, JAX arrays in and out
ours, NumPy       the function as it stands, NumPy arrays in and out
ours, plain JAX   what runs where there is no kernel, on this CPU
onnxruntime       its NonMaxSuppression. By class it takes scores of every class for
                  every box, and gives each class its own order, which is then sorted
torchvision       `nms`; by class `batched_nms`, which is exact for boxes like these;
                  image after image. Where it is installed
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.append(str(pathlib.Path(__file__).parents[1]))

import jax
import machine
import numpy as np
from measure import Contestant, time_in_turns

from jax_roipool import backends
from jax_roipool.boxes import nms
from tests.oracle import boxes as oracle

# What the command must show (docs/boxes.md), on two cores.
GOALS = {"2000": 0.3, "12000 to 2000": 1.5}
WORKLOADS = {  # boxes, outputs, threshold, classes, images
    "2000": (2000, 2000, 0.7, 0, 1),
    "12000 to 2000": (12000, 2000, 0.7, 0, 1),
    "12000 of 80 classes": (12000, 2000, 0.5, 80, 1),
    "16 images, 2000 to 100": (2000, 100, 0.5, 0, 16),
}


class Load:
    """Images of a workload, and what is right for each."""

    def __init__(self, name: str) -> None:
        count, self.outputs, self.threshold, classes, self.images = WORKLOADS[name]
        self.by_class = classes > 0
        r = np.random.default_rng(0)
        size = (self.images, count // 8, 2)
        center = np.repeat(r.uniform(0, [1000, 600], size), 8, axis=1)
        half = np.repeat(np.exp(r.uniform(np.log(8), np.log(100), size)), 8, axis=1)
        center += r.normal(0, 0.12, center.shape) * half
        half *= np.exp(r.normal(0, 0.1, half.shape))
        corners = np.concatenate([center - half, center + half], axis=-1)
        self.boxes = corners.astype(np.float32)
        # Different ones: peers put equal scores in any order.
        scores = [r.permutation(count) for _ in range(self.images)]
        self.scores = np.stack(scores).astype(np.float32) / count
        self.classes = r.integers(0, classes or 1, (self.images, count))
        self.wanted = [
            oracle.nms(b, s, np.float32(self.threshold), self.outputs, classes=k)
            for b, s, k in zip(self.boxes, self.scores, self.classes, strict=True)
        ]

    def check(self, name: str, got: Any) -> None:
        """Raises unless every image's indices are right; -1 fills up."""
        for indices, want in zip(got, self.wanted, strict=True):
            indices = np.asarray(indices)
            if indices[indices >= 0].tolist() != want:
                raise ValueError(f"{name} is not greedy")


def ours(load: Load) -> Callable[[], Any]:
    """One program; several images by vmap. Lowered to what is in force."""

    def one(boxes: Any, scores: Any, classes: Any) -> Any:
        classes = classes if load.by_class else None
        return nms(boxes, scores, load.threshold, load.outputs, classes=classes)[0]

    operands = [jax.numpy.asarray(x) for x in (load.boxes, load.scores, load.classes)]
    if load.images == 1:
        operands, function = [x[0] for x in operands], one
    else:
        function = jax.vmap(one)
    program = jax.jit(function).lower(*operands).compile()
    if load.images > 1:
        return lambda: jax.block_until_ready(program(*operands))
    return lambda: [jax.block_until_ready(program(*operands))]


def ours_numpy(load: Load) -> Callable[[], Any]:
    """Image after image."""
    classes = load.classes if load.by_class else [None] * load.images
    return lambda: [
        nms(b, s, load.threshold, load.outputs, classes=k)[0]
        for b, s, k in zip(load.boxes, load.scores, classes, strict=True)
    ]


def onnxruntime(load: Load, threads: int) -> Callable[[], Any]:
    """All images in one call; centers would be another option, corners are faster."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    inputs = ["boxes", "scores", "most", "threshold", "least"]
    shapes = [load.boxes.shape, (None, None, None), (1,), (1,), (1,)]
    types = [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64]
    types += [TensorProto.FLOAT] * 2
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", inputs, ["selected"])],
        "nms",
        [
            helper.make_tensor_value_info(*value)
            for value in zip(inputs, types, shapes, strict=True)
        ],
        [helper.make_tensor_value_info("selected", TensorProto.INT64, (None, 3))],
    )
    opset = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    scores = load.scores[:, None]
    if load.by_class:
        each = np.arange(load.classes.max() + 1)[:, None]
        scores = np.where(load.classes[:, None] == each, scores, np.float32(-1))
    feed = {
        "boxes": load.boxes,
        "scores": scores,
        "most": np.array([load.outputs]),
        "threshold": np.array([load.threshold], np.float32),
        "least": np.zeros(1, np.float32),
    }

    def call() -> list[np.ndarray]:
        image, _, box = session.run(None, feed)[0].T
        if load.by_class:
            order = np.argsort(-load.scores[0][box], kind="stable")
            return [box[order][: load.outputs]]
        return [box[image == i] for i in range(load.images)]

    return call


def torchvision(load: Load, threads: int) -> Callable[[], Any]:
    """Image after image: it has no other way."""
    import torch
    from torchvision.ops import batched_nms, nms

    torch.set_num_threads(threads)
    arrays = (load.boxes, load.scores, load.classes)
    images = list(zip(*(map(torch.from_numpy, x) for x in arrays), strict=True))

    def call() -> list[Any]:
        if load.by_class:
            found = [batched_nms(*image, load.threshold) for image in images]
        else:
            found = [nms(b, s, load.threshold) for b, s, _ in images]
        return [x[: load.outputs] for x in found]

    return call


def contestants(load: Load, threads: int) -> list[Contestant]:
    """Those that are installed, ours first; their answers are right."""
    calls = {"ours": ours(load), "ours, NumPy": ours_numpy(load)}
    best = backends.CPU.choice
    backends.CPU.use(backends.PLAIN)
    calls["ours, plain JAX"] = ours(load)
    backends.CPU.use(best)
    for make in (onnxruntime, torchvision):
        if importlib.util.find_spec(make.__name__):
            calls[make.__name__] = make(load, threads)
    for name, call in calls.items():
        load.check(name, call())
    return [Contestant(name, [call], lambda _: "") for name, call in calls.items()]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="for each workload")
    parser.add_argument("--json", type=pathlib.Path, help="file for the numbers")
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    about = {
        "machine": f"{machine.processor()}, {threads} threads",
        "kernels": backends.CPU.choice,
        **machine.versions(),
    }
    print(*(f"{key} {value}" for key, value in about.items()), sep=", ")
    results = {}
    for name in WORKLOADS:
        load = Load(name)
        lineup = contestants(load, threads)
        time_in_turns(lineup, args.seconds, name)
        goal = f", goal {GOALS[name]} ms" if name in GOALS else ""
        print(f"\n{name}: {sum(map(len, load.wanted))} chosen{goal}")
        for each in lineup:
            ratio = each.median / lineup[0].median
            print(f"  {each.name:16}{each.median:9.3f} ms{ratio:8.1f} x")
        results[name] = {x.name: [x.median, x.fastest] for x in lineup}
    if args.json:
        described = {**about, "median and fastest, ms": results}
        args.json.write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
