"""The data layer: images per second beside decoding and resizing alone.

    python benchmarks/data_layer.py
    python benchmarks/data_layer.py --workers 1,2,4 --json layer.json

Photographs of 500 x 375 and 375 x 500 pixels, JPEG files on disk, to a short side of
600 and batches of two with 2000 proposals each (Fast R-CNN). Contestants take turns
with the same number of processes:

decode + resize   `decode` and `prepare` of jax_roipool.data.images, for uint8
                  transport: thrown away where they were made, no RoIs, no batch, no
                  way to another process. The limit.
cv2 uint8         cv2.imdecode and cv2.resize of uint8 images, whose values are up to
                  0.83 of a level off; thrown away
original          cv2.imdecode, mean subtracted, cv2.resize of float32 images, as
                  py-faster-rcnn does it; thrown away
ours end to end   `RoIDataLayer` with `has_rpn`, uint8: whole minibatches in this
                  process, with ground truth and no RoIs
ours uint8        with 64 RoIs and targets of each image, from 2000 proposals
ours float32
torch uint8       `torch.utils.data.DataLoader` making the same minibatches with the
torch float32     same functions, where torch is installed

Besides the rate there are the milliseconds of processor time per image, of this
process and all workers, which other programs on the machine disturb less. Without
workers everything happens in this process. A rate counts from the batch
after the first few to the last, so starting processes is not in it; that is a line of
its own. Then memory: proportional set size (shared pages are shared out) of this
process and its workers after each of 20 epochs.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import cv2
import machine
import numpy as np
import skimage

from jax_roipool.data import (
    EpochPlan,
    ImageConfig,
    LayerConfig,
    Record,
    RoIDataLayer,
    Roidb,
    get_minibatch,
)
from jax_roipool.data.images import decode, prepare, scale_for

SIZES = ((375, 500), (500, 375))
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CLASSES = 21
PROPOSALS = 2000
WARM = 6  # batches, more than any queue here holds


def roidb_of(count: int, directory: pathlib.Path) -> Roidb:
    """JPEG files of different crops, boxes and proposals at random."""
    records, proposals = [], []
    for i in range(count):
        rng = np.random.default_rng(i)
        height, width = SIZES[i % 2]
        image = getattr(skimage.data, PHOTOGRAPHS[i % len(PHOTOGRAPHS)])()
        top, left = rng.integers(0, 40, 2)
        image = cv2.resize(image[top:, left:, ::-1], (width, height))
        file = directory / f"{i}.jpg"
        cv2.imwrite(str(file), image)
        low = rng.uniform(0, 200, (PROPOSALS, 2))
        high = low + rng.uniform(20, 170, low.shape)
        boxes = np.concatenate([low, high], axis=1).astype(np.float32)
        records.append(Record(str(i), str(file), height, width, boxes[:3], [1, 2, 3]))
        proposals.append(boxes)
    names = [f"class {k}" for k in range(1, CLASSES)]
    return Roidb.from_records(records, names).add_proposals(proposals)


def config_of(transport: Any, has_rpn: bool = False) -> LayerConfig:
    """py-faster-rcnn's numbers."""
    return LayerConfig(images=ImageConfig(transport=transport), has_rpn=has_rpn)


# --- Contestants: iterators that yield once per batch --------------------------


def with_images(file: str) -> None:
    """`decode + resize`."""
    image = decode(file)
    scale = scale_for(*image.shape[:2], 600, 1000)
    prepare(image, scale, ImageConfig(transport="uint8"))


def with_cv2(file: str, subtract: bool = False) -> None:
    """`cv2 uint8`, or with the mean `original`."""
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    if subtract:
        image = image.astype(np.float32)
        image -= np.array((102.9801, 115.9465, 122.7717))
    scale = 600 / min(image.shape[:2])
    cv2.resize(image, None, None, scale, scale, cv2.INTER_LINEAR)


def for_each(function: Callable[[str], None], files: list[str]) -> None:
    """What one task of a process does."""
    for file in files:
        function(file)


def one_thread() -> None:
    """Processes are the parallelism."""
    cv2.setNumThreads(1)


class Alone:
    """A function of each file, its result thrown away."""

    def __init__(
        self, roidb: Roidb, workers: int, function: Callable[[str], None]
    ) -> None:
        self._files = [str(record.image) for record in roidb]
        self._function = function
        self._pool = None
        if workers:
            context = multiprocessing.get_context("spawn")
            self._pool = context.Pool(workers, initializer=one_thread)

    def batches(self, count: int) -> Iterator[Any]:
        """Something for each of `count` batches, when it is done."""
        files = [self._files[i % len(self._files)] for i in range(2 * count)]
        calls = [(self._function, files[i : i + 2]) for i in range(0, 2 * count, 2)]
        if self._pool is None:
            for call in calls:
                yield for_each(*call)
            return
        running = [self._pool.apply_async(for_each, call) for call in calls]
        for result in running:
            yield result.get()

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


class Ours:
    """`RoIDataLayer`."""

    def __init__(self, roidb: Roidb, workers: int, config: LayerConfig) -> None:
        self._layer = RoIDataLayer(roidb, CLASSES, config, workers=workers)

    def batches(self, count: int) -> Iterator[Any]:
        """Something for each of `count` batches, when it is done."""
        for _ in range(count):
            yield next(self._layer)

    def close(self) -> None:
        """Ends the processes."""
        self._layer.close()


class TorchItems:
    """The minibatches of a plan, as torch's map-style data set."""

    def __init__(self, roidb: Roidb, transport: str) -> None:
        self._roidb, self._config = roidb, config_of(transport)
        self._plan = EpochPlan(roidb, self._config.images, batch_size=2)
        self._epoch = self._plan.epoch(0)

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, i: int) -> dict[str, Any]:
        cv2.setNumThreads(1)
        step = self._epoch[i % len(self._epoch)]
        roidb = self._roidb.take(step.image_index[step.image_index >= 0])
        rng = np.random.default_rng(i)
        batch = get_minibatch(roidb, CLASSES, self._config, rng=rng)
        return {k: v for k, v in batch._asdict().items() if v is not None}


class Torch:
    """`torch.utils.data.DataLoader`."""

    def __init__(self, roidb: Roidb, workers: int, transport: str) -> None:
        import torch.utils.data

        self._loader = torch.utils.data.DataLoader(
            TorchItems(roidb, transport),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            sampler=range(10**6),
        )
        self._iterator = iter(self._loader)

    def batches(self, count: int) -> Iterator[Any]:
        """Something for each of `count` batches, when it is done."""
        for _ in range(count):
            yield next(self._iterator)

    def close(self) -> None:
        """Ends the processes."""
        del self._iterator


def contestants(roidb: Roidb, workers: int) -> dict[str, Callable[[], Any]]:
    """By name, the first being the limit."""
    result: dict[str, Callable[[], Any]] = {
        "decode + resize": lambda: Alone(roidb, workers, with_images),
        "cv2 uint8": lambda: Alone(roidb, workers, with_cv2),
        "original": lambda: Alone(
            roidb, workers, functools.partial(with_cv2, subtract=True)
        ),
        "ours end to end": lambda: Ours(roidb, workers, config_of("uint8", True)),
        "ours uint8": lambda: Ours(roidb, workers, config_of("uint8")),
        "ours float32": lambda: Ours(roidb, workers, config_of("float32")),
    }
    try:
        import torch  # noqa: F401
    except ImportError:
        print("torch is not installed: without its DataLoader")
    else:
        result["torch uint8"] = lambda: Torch(roidb, workers, "uint8")
        result["torch float32"] = lambda: Torch(roidb, workers, "float32")
    return result


# --- Measuring -------------------------------------------------------------------


def processor_seconds() -> float:
    """Of this process and its living children, so far."""
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        status = pathlib.Path(f"/proc/{child.pid}/stat").read_text()
        user, system = status.rpartition(")")[2].split()[11:13]
        total += (int(user) + int(system)) / tick
    return total


def rate(start: Callable[[], Any], batches: int) -> tuple[float, float, float]:
    """Images per second, processor time per image in ms, seconds to the first."""
    begin = time.perf_counter()
    contestant = start()
    stream = contestant.batches(WARM + batches)
    next(stream)
    first = time.perf_counter() - begin
    for _ in range(WARM - 1):
        next(stream)
    begin, used = time.perf_counter(), processor_seconds()
    for _ in range(batches):
        next(stream)
    seconds, used = time.perf_counter() - begin, processor_seconds() - used
    contestant.close()
    images = 2 * batches
    return round(images / seconds, 2), round(used / images * 1e3, 3), round(first, 3)


def proportional_memory() -> float:
    """MiB of this process and its children."""
    pids = [os.getpid(), *(p.pid for p in multiprocessing.active_children())]
    total = 0
    for pid in pids:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(rollup.split("\nPss:")[1].split()[0])
    return total / 1024


def memory(roidb: Roidb, workers: int, epochs: int) -> list[float]:
    """After each epoch, every minibatch dropped at once."""
    config, result = config_of("uint8"), []
    with RoIDataLayer(roidb, CLASSES, config, workers=workers) as layer:
        for _ in range(epochs):
            for _ in range(layer.steps_per_epoch):
                next(layer)
            result.append(round(proportional_memory(), 1))
    return result


def as_json(found: dict[str, Any]) -> str:
    """A line for each contestant."""

    def lines(value: Any, indent: str) -> str:
        if not isinstance(value, dict):
            return json.dumps(value)
        inside = ",\n".join(
            f"{indent} {json.dumps(name)}: {lines(item, indent + ' ')}"
            for name, item in value.items()
        )
        return f"{{\n{inside}\n{indent}}}"

    return lines(found, "") + "\n"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    cores = len(os.sched_getaffinity(0))
    add("--workers", default=f"0,{cores}", help="default: %(default)s")
    add("--images", type=int, default=64, help="files; default: %(default)s")
    add("--batches", type=int, default=60, help="per turn; default: %(default)s")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--epochs", type=int, default=20, help="for memory; default: %(default)s")
    add("--json", type=pathlib.Path, help="also write the numbers here")
    arguments = parser.parse_args()
    one_thread()
    print(f"{machine.processor()}, {cores} cores; OpenCV {cv2.__version__}")
    found: dict[str, Any] = {"processor": machine.processor(), "cores": cores}
    with tempfile.TemporaryDirectory() as directory:
        roidb = roidb_of(arguments.images, pathlib.Path(directory))
        for workers in map(int, arguments.workers.split(",")):
            field = contestants(roidb, workers)
            turns: dict[str, list[tuple[float, float, float]]] = {
                name: [] for name in field
            }
            for _ in range(arguments.rounds):
                for name, start in field.items():
                    turns[name].append(rate(start, arguments.batches))
            print(
                f"\n{workers} workers      images/s  of the limit   "
                "processor, ms  of the limit   first batch, s"
            )
            limit: list[float] = []
            for name, values in turns.items():
                median = [statistics.median(v) for v in zip(*values, strict=True)]
                limit = limit or median
                print(
                    f"  {name:17}{median[0]:8.1f}{median[0] / limit[0]:11.2f}"
                    f"{median[1]:14.2f}{limit[1] / median[1]:14.2f}{median[2]:15.2f}"
                )
            found[f"{workers} workers: images/s, processor ms, first batch s"] = turns
        used = memory(roidb, workers, arguments.epochs)
        print(f"\nMiB after each epoch, {workers} workers: {used}")
        found["MiB after each epoch"] = used
    if arguments.json:
        arguments.json.write_text(as_json(found))


if __name__ == "__main__":
    main()
