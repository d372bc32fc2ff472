"""Data-parallel training of a small detector head, on one process or many.

    python examples/data_parallel.py                          # this machine's devices
    python examples/data_parallel.py --local 2 --devices 4    # two processes of 4 CPUs
    python examples/data_parallel.py --coordinator HOST:PORT --processes 2 --process 0
    srun python examples/data_parallel.py --cluster           # Slurm, Open MPI, GKE ...

Every step sees the same images, however many devices and processes share them. The
images, their boxes and the pooled features stay where they are; what devices
exchange is the sum of the gradients of the parameters. Where a process is lost, the
others end with an error within the time of --heartbeat.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_roipool import roi_pool

SIZE = 64  # pixels of a side of an image
STRIDE = 4  # pixels per cell of the feature map
BOXES = 6  # per image
CLASSES = 3  # red, green, blue

Params = dict[str, jax.Array]


def make_image(step: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boxes and classes: coloured rectangles on noise."""
    rng = np.random.default_rng((step, index))
    image = rng.normal(0, 0.3, (SIZE, SIZE, 3)).astype(np.float32)
    corner = rng.integers(0, SIZE - 20, (BOXES, 2))
    boxes = np.hstack([corner, corner + rng.integers(8, 20, (BOXES, 2))])
    classes = rng.integers(0, CLASSES, BOXES)
    for (x1, y1, x2, y2), color in zip(boxes, classes, strict=True):
        image[y1 : y2 + 1, x1 : x2 + 1] = rng.normal(0, 0.3, 3)
        image[y1 : y2 + 1, x1 : x2 + 1, color] += 1
    return image, boxes.astype(np.float32), classes.astype(np.int32)


def make_batch(step: int, images: int, mesh: Mesh) -> tuple[jax.Array, ...]:
    """A global batch, of which each process makes its own images only."""
    sharding = NamedSharding(mesh, P("data"))
    made: dict[int, tuple[np.ndarray, ...]] = {}

    def part(which: int, index: tuple[slice, ...]) -> np.ndarray:
        rows = range(images)[index[0]]
        for i in rows:
            made.setdefault(i, make_image(step, i))
        return np.stack([made[i][which] for i in rows])

    shapes = [(images, SIZE, SIZE, 3), (images, BOXES, 4), (images, BOXES)]
    return tuple(
        jax.make_array_from_callback(shape, sharding, partial(part, which))
        for which, shape in enumerate(shapes)
    )


def init(seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters: two convolutions and a linear layer over 3x3 pooled bins."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 16, 32), "head": (288, CLASSES)}
    return {
        name: rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def loss(params: Params, images: Any, boxes: Any, classes: Any) -> jax.Array:
    """Cross-entropy of the boxes' classes, the mean over all images."""
    features = images
    for name in ("conv1", "conv2"):
        features = jax.lax.conv_general_dilated(
            features,
            params[name],
            window_strides=(2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        features = jax.nn.relu(features)
    pooled = roi_pool(features, boxes, 3, 1 / STRIDE)  # [images, boxes, 3, 3, 32]
    logits = pooled.reshape(*pooled.shape[:2], -1) @ params["head"]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[..., None], -1)
    return -chosen.mean()


@partial(jax.jit, donate_argnums=0)
def train_step(params: Params, *batch: Any) -> tuple[Params, jax.Array, Params]:
    """Parameters after a step, the loss before it and its gradient."""
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    updated = jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient)
    return updated, value, gradient


def train(arguments: argparse.Namespace) -> None:
    """Trains and prints; the first process saves the first gradient."""
    devices = jax.device_count()
    if arguments.images % devices:
        sys.exit(f"--images must be a multiple of {devices}, the number of devices")
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    first = jax.process_index() == 0
    if first:
        print(
            f"{jax.process_count()} process(es), {devices} {jax.default_backend()} "
            f"device(s), {arguments.images} images a step",
            flush=True,
        )
    params = jax.device_put(init(), NamedSharding(mesh, P()))
    start = time.perf_counter()
    for step in range(arguments.steps):
        batch = make_batch(step, arguments.images, mesh)
        params, value, gradient = train_step(params, *batch)
        if first and step == 0 and arguments.save is not None:
            np.savez(arguments.save, **jax.tree.map(np.asarray, gradient))
        if first and (step % 10 == 0 or step + 1 == arguments.steps):
            seconds = time.perf_counter() - start
            print(f"step {step:4}  loss {value:.4f}  {seconds:6.1f} s", flush=True)


def launch(arguments: argparse.Namespace) -> int:
    """Runs this file in several processes of CPU devices; the first failure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={arguments.devices}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
    }
    rest = ["--steps", str(arguments.steps), "--images", str(arguments.images)]
    rest += ["--heartbeat", str(arguments.heartbeat)]
    rest += ["--save", str(arguments.save)] if arguments.save is not None else []
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--coordinator", address]
            + ["--processes", str(arguments.local), "--process", str(i), *rest],
            env=environment,
        )
        for i in range(arguments.local)
    ]
    try:
        # The first that fails ends them all: the others would wait for it.
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    return next((1 for process in processes if process.returncode), 0)


def main() -> int:
    """Reads the arguments and trains, or starts processes that do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, default=60)
    add("--images", type=int, default=16, help="of a step, over all devices")
    add("--save", type=pathlib.Path, help="the first gradient, as .npz")
    add("--local", type=int, metavar="N", help="start N processes on this machine")
    add("--devices", type=int, default=4, help="CPU devices of each of these")
    add("--cluster", action="store_true", help="ask the cluster who takes part")
    add("--coordinator", metavar="HOST:PORT", help="of the first process")
    add("--processes", type=int)
    add("--process", type=int, help="which of them this is, from 0")
    add("--heartbeat", type=int, default=20, metavar="SECONDS")
    arguments = parser.parse_args()
    for name, least in (("steps", 1), ("images", 1), ("local", 1), ("devices", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}, got {value}")
    if arguments.save is not None and not arguments.save.parent.is_dir():
        parser.error(f"--save: no such directory: {arguments.save.parent}")
    if arguments.local:
        return launch(arguments)
    if arguments.cluster or arguments.coordinator:
        jax.distributed.initialize(
            arguments.coordinator,
            arguments.processes,
            arguments.process,
            heartbeat_timeout_seconds=arguments.heartbeat,
        )
    train(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
