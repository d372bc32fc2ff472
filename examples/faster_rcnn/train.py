"""Training: the loop, its progress, its checkpoints and how it ends."""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from examples.faster_rcnn import checkpoints, pictures, sources, vgg16
from examples.faster_rcnn.config import TrainConfig
from examples.faster_rcnn.evaluate import Evaluator
from examples.faster_rcnn.losses import Metrics
from examples.faster_rcnn.problem import Problem
from examples.faster_rcnn.step import Trainer, TrainState
from jax_roipool.data import ImageError, Roidb, WorkerError

LOG = "log.jsonl"
CURVES = "curves.png"
EVERY = 10  # steps between two entries of the log


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run does besides training; none of it changes the numbers.

    Attributes:
      resume: Goes on from the last checkpoint of the run.
      weights: VGG16's, in torchvision's layout.
      workers: Processes that read images.
      checkpoint_every: Steps between checkpoints; there is one at the end.
      evaluate_every: Steps between evaluations; 0: none.
      evaluate_images: Of the test set, the first so many are evaluated then.
    """

    resume: bool = False
    weights: pathlib.Path | None = None
    workers: int = 0
    checkpoint_every: int = 500
    evaluate_every: int = 0
    evaluate_images: int = 100


@contextlib.contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that is not empty after Ctrl-C; the second Ctrl-C ends at once."""
    asked: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: Any) -> None:
        asked.append(True)
        signal.signal(signal.SIGINT, before)

    try:
        signal.signal(signal.SIGINT, ask)
    except ValueError:  # only the main thread may
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class Log:
    """One line of JSON for every few steps and every evaluation of a run."""

    def __init__(self, run: pathlib.Path, step: int) -> None:
        self.file = run / LOG
        self.entries = [e for e in read_log(run) if e["step"] <= step]
        self.before = max((e.get("seconds", 0.0) for e in self.entries), default=0.0)
        self.start = time.perf_counter()
        text = "".join(json.dumps(e) + "\n" for e in self.entries)
        self.file.write_text(text, "utf-8")

    def add(self, step: int, **values: float) -> None:
        """Adds an entry, and the seconds that the run has taken, pauses left out."""
        seconds = self.before + time.perf_counter() - self.start
        entry = {"step": step, "seconds": round(seconds, 2), **values}
        self.entries.append(entry)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_log(run: pathlib.Path) -> list[dict[str, float]]:
    """The log of a run; empty where there is none."""
    try:
        lines = (run / LOG).read_text("utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


@dataclasses.dataclass(frozen=True)
class Result:
    """How a training ended.

    Attributes:
      state: Parameters, optimizer, step.
      finished: Whether it came to its last step.
      compiling: Seconds that it took to compile.
    """

    state: TrainState
    finished: bool
    compiling: float


def train(
    trainer: Trainer,
    roidb: Roidb,
    run: pathlib.Path,
    source: sources.Source,
    options: Options,
    evaluator: Evaluator | None = None,
) -> Result:
    """Trains a detector.

    Args:
      trainer: Of the detector.
      roidb: What it is trained on, flips and proposals included.
      run: The directory of checkpoints, log and curves.
      source: Noted in the checkpoints.
      options: What else is done.
      evaluator: Evaluates meanwhile.

    Raises:
      Problem: The run cannot begin or go on; what was saved stays.
    """
    model, training = trainer.config, trainer.training
    devices = trainer.mesh.size
    if training.images_per_batch % devices:
        raise Problem(
            f"--images-per-batch must be a multiple of the {devices} devices, got "
            f"{training.images_per_batch}"
        )
    layer = sources.training_layer(roidb, model, training, workers=options.workers)
    with layer, _interruptible() as asked:
        state, first = _begin(run, trainer, layer, options)
        start = time.perf_counter()
        for spec in layer.spec.values():
            trainer.compile(spec)
        if evaluator is not None and model.rpn:
            evaluator.compile(trainer.shapes.params)
        compiling = time.perf_counter() - start
        print(f"compiled for {len(layer.spec)} sizes of images in {compiling:.0f} s")
        log = Log(run, first)

        def save(step: int) -> None:
            if not trainer.is_finite(state):
                raise Problem(
                    f"the parameters are no longer finite at step {step}, and not "
                    "saved: a smaller --learning-rate may help"
                )
            about = checkpoints.Description(
                model, training, step, layer.state, source.to_json()
            )
            checkpoints.save(run, state, about)

        step, saved, recent = first, first, []
        bar = _bar(training, first)
        with bar:
            for step in range(first + 1, training.steps + 1):
                try:
                    batch = _next(layer)
                except (ImageError, WorkerError) as error:
                    if step - 1 > saved:
                        save(step - 1)
                    raise Problem(str(error)) from error
                state, metrics = trainer(state, batch)
                recent.append(metrics)
                stop = bool(asked)  # once: it may be asked at any moment
                last = stop or step == training.steps
                if step % EVERY == 0 or last:
                    _note(log, bar, step, recent, training.images_per_batch)
                    recent.clear()
                # Before an evaluation, which may fail.
                if save_now := last or step % options.checkpoint_every == 0:
                    save(step)
                    saved = step
                every = options.evaluate_every
                if evaluator and every and not stop and (last or step % every == 0):
                    found = evaluator(state.params, options.evaluate_images)
                    log.add(step, **found)
                    tell = bar.write if sys.stderr.isatty() else print
                    tell(f"step {step}: AP50 {found['AP50']:.3f}")
                if save_now:
                    pictures.curves(log.entries, run / CURVES)
                if stop:
                    break
    return Result(state, step == training.steps, compiling)


def _next(layer: Any) -> Any:
    """The next minibatch, also after a worker process has died."""
    try:
        return next(layer)
    except WorkerError:
        return next(layer)


def _begin(
    run: pathlib.Path, trainer: Trainer, layer: Any, options: Options
) -> tuple[TrainState, int]:
    """The state to go on from, and after how many steps it is."""
    there = (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir())
    if not options.resume:
        if there:
            raise Problem(
                f"{run} holds a run already: --resume goes on with it, --out names "
                "another place"
            )
        run.mkdir(parents=True, exist_ok=True)
        if options.weights is None:
            return trainer.init(), 0
        detector = trainer.model(trainer.random())
        vgg16.load(options.weights, detector.backbone, detector.head)
        return trainer.init(nnx.to_pure_dict(nnx.state(detector))), 0
    about = checkpoints.describe(run)
    checkpoints.check_model(run, about.model, trainer.config)
    for field in dataclasses.fields(TrainConfig):
        old, new = (getattr(c, field.name) for c in (about.training, trainer.training))
        if old != new:
            raise Problem(
                f"{run}: a resumed run must be as it was begun: its {field.name} is "
                f"{old}, wanted is {new}"
            )
    try:
        layer.set_state(about.layer)
    except ValueError as error:
        raise Problem(f"{run}: made with other data: {error}") from error
    return checkpoints.restore(run, trainer.shapes), about.step


def _bar(training: TrainConfig, first: int) -> Any:
    """A bar on a terminal; elsewhere a line now and then."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=training.steps * training.images_per_batch,
        initial=first * training.images_per_batch,
        unit=" images",
        mininterval=0.2 if terminal else 15,
        delay=0 if terminal else 15,
        dynamic_ncols=terminal,
        bar_format=None
        if terminal
        else "{percentage:3.0f}% {n_fmt}/{total_fmt} images, {rate_fmt}, "
        "{elapsed} gone, {remaining} left{postfix}\n",
    )


def _note(log: Log, bar: Any, step: int, recent: list[Metrics], images: int) -> None:
    """Means of the last steps, to the log and the bar."""
    values = jax.device_get(recent)
    means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
    if not math.isfinite(means["loss"]):
        raise Problem(
            f"the loss is {means['loss']} at step {step}: a smaller --learning-rate "
            "may help"
        )
    log.add(step, **means)
    bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()}, refresh=False)
    bar.update(len(values) * images)
