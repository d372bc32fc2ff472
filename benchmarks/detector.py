"""The training step of examples/faster_rcnn: how fast, and what pooling takes of it.

    python benchmarks/detector.py
    python benchmarks/detector.py --preset vgg16 --images 1 --steps 3

For the compiled kernels and for pooling in plain JAX, each in a process of its own:
seconds to compile, milliseconds of a step (median and least), images per second,
the share of the step in which RoI pooling ran, forward and backward, and the
greatest memory. The share is read from JAX's profiler: the time of the events
named after our ops, over that of the steps they were recorded in. Plain JAX is not
one op in a profile, so there the difference of the steps has to do.

Batches are random pixels with random boxes, as many as in the synthetic scenes, and
stay on the device: the loader is not measured.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

VARIANTS = ("kernels", "plain")
BOXES = 6  # in an image
PROFILED = 3  # steps


def main() -> None:
    """Reads the arguments; measures both variants, or one of them here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--preset", choices=("small", "vgg16"), default="small")
    add("--images", type=int, help="of a step")
    add("--steps", type=int, default=20)
    add("--json", type=pathlib.Path, help="also write the numbers here")
    add("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.preset, options.images, options.steps)))
        return
    results = {name: in_a_process(name, sys.argv[1:]) for name in VARIANTS}
    machine = results["kernels"]["machine"]
    print(f"{machine}, {options.preset}, {results['kernels']['images']} images a step")
    print("pooling   compile s  step ms (least)  images/s  pooling %  memory MB")
    for name, r in results.items():
        share = r["pooling_share"]
        share = "-" if share is None else f"{100 * share:.1f}"
        print(
            f"{name:9} {r['compile_s']:9.1f}  {r['step_ms']:7.0f} "
            f"({r['least_step_ms']:.0f})  {r['images_per_s']:8.1f}  {share:>9}  "
            f"{r['memory_mb']:9.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def in_a_process(variant: str, arguments: list[str]) -> dict[str, Any]:
    """What a process says that pools as told."""
    targets = {f"JAX_ROIPOOL_{p}_TARGET": "plain" for p in ("CPU", "CUDA")}
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--variant", variant],
        env={**os.environ, **(targets if variant == "plain" else {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def random_batch(model: Any, images: int) -> Any:
    """Pixels and boxes of the first of the model's sizes."""
    import numpy as np

    from jax_roipool.data import Minibatch

    rng = np.random.default_rng(0)
    height, width = model.images.bucket_sizes[0]
    low = rng.uniform(0, [width * 0.7, height * 0.7], (images, BOXES, 2))
    size = rng.uniform(0.15, 0.3, (images, BOXES, 2)) * [width, height]
    classes = rng.integers(1, len(model.classes), (images, BOXES, 1))
    return Minibatch(
        data=rng.integers(0, 256, (images, height, width, 3), dtype=np.uint8),
        im_info=np.float32([[height, width, 1]] * images),
        image_weights=np.ones(images, np.float32),
        image_index=np.arange(images, dtype=np.int32),
        gt_boxes=np.concatenate([low, low + size, classes], -1).astype(np.float32),
        gt_valid=np.ones((images, BOXES), bool),
    )


def measure(preset: str, images: int | None, steps: int) -> dict[str, Any]:
    """The numbers of this process."""
    import jax

    from benchmarks import machine
    from examples.faster_rcnn import config
    from examples.faster_rcnn.step import Trainer, data_mesh

    names = ("__background__", *map(str, range(10 if preset == "small" else 20)))
    model = getattr(config, preset)(names)
    changes = {} if images is None else {"images_per_batch": images}
    trainer = Trainer(
        model, config.training(preset, **changes), data_mesh(jax.devices()[:1])
    )
    images = trainer.training.images_per_batch
    state, batch = trainer.init(), trainer.put(random_batch(model, images))
    start = time.perf_counter()
    step = trainer.compile(batch)
    compiling = time.perf_counter() - start
    for _ in range(2):
        state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(PROFILED):
                state, metrics = jax.block_until_ready(step(state, batch))
            profiled = time.perf_counter() - start
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        pooling = pooling_seconds(jax.profiler.ProfileData.from_file(str(file)))
    stats = jax.devices()[0].memory_stats() or {}
    memory = stats.get("peak_bytes_in_use")
    if memory is None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    median = statistics.median(seconds)
    return {
        "machine": f"{machine.processor()}, {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "images": images,
        "compile_s": compiling,
        "step_ms": 1e3 * median,
        "least_step_ms": 1e3 * min(seconds),
        "images_per_s": images / median,
        # Of plain JAX it has no events of its own.
        "pooling_share": pooling / profiled if pooling else None,
        "memory_mb": memory / 2**20,
    }


def pooling_seconds(profile: Any) -> float:
    """The time of our ops in a profile, as XLA names them."""
    return sum(
        event.duration_ns / 1e9
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
        if event.name.startswith(("roi_pool", "roi_scatter", "jax_roipool"))
    )


if __name__ == "__main__":
    main()
