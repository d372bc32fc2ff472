"""Checkpoints: whole or not there, and never taken for another model's.

A run is a directory; `checkpoints/<step>` in it holds the parameters, the
optimizer and the position in the data, written by Orbax: into a directory of
another name, which gets its own when all is on the disk. Then come the sums of
its files, `SHA256SUMS`, without which a checkpoint is not whole. They are compared
before Orbax reads a file: from damage it comes back with many messages of its
threads, or with other numbers.
"""

import dataclasses
import hashlib
import logging
import os
import pathlib
import shutil
from typing import Any

import orbax.checkpoint as ocp

from examples.faster_rcnn.config import ModelConfig, TrainConfig
from examples.faster_rcnn.problem import Problem
from examples.faster_rcnn.step import TrainState

FORMAT = 1
KEPT = 3
SUMS = "SHA256SUMS"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself.

    Attributes:
      model: The detector.
      training: The run that made it.
      step: After how many steps.
      layer: The state of the data layer.
      data: What it was trained on: kind and path.
    """

    model: ModelConfig
    training: TrainConfig
    step: int
    layer: dict[str, Any]
    data: dict[str, Any]


def _manager(run: pathlib.Path, *, create: bool) -> ocp.CheckpointManager:
    # Orbax tells of every file.
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT,
        create=create,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=create,
    )
    return ocp.CheckpointManager(
        (run / "checkpoints").resolve(), options=options, item_names=("state", "about")
    )


def save(run: pathlib.Path, state: TrainState, about: Description) -> pathlib.Path:
    """Writes `checkpoints/<step>` of a run; the last three are kept.

    Raises:
      Problem: It could not be written. What there was before is still there.
    """
    place = run / "checkpoints" / str(about.step)
    note = {
        "format": FORMAT,
        "model": about.model.to_json(),
        "training": about.training.to_json(),
        "step": about.step,
        "layer": about.layer,
        "data": about.data,
    }
    if _is_whole(place):
        return place
    try:
        if place.exists():
            shutil.rmtree(place)
        with _manager(run, create=True) as manager:
            manager.save(
                about.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    about=ocp.args.JsonSave(note),
                ),
            )
        _write_sums(place)
    except Exception as error:  # Orbax and TensorStore have many
        for half in (place, *place.parent.glob(f"{place.name}.orbax-checkpoint-tmp*")):
            shutil.rmtree(half, ignore_errors=True)
        raise Problem(
            f"{place}: the checkpoint cannot be written, and is not there: "
            f"{_reason(error)}"
        ) from error
    return place


def find(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """The run and the step that a user means by the path of either."""
    if not path.exists():
        raise Problem(f"{path}: no such checkpoint")
    # A run may have that name itself.
    if path.name == "checkpoints" and not (path / "checkpoints").is_dir():
        path = path.parent
    if path.name.isdigit() and path.parent.name == "checkpoints":
        if not _is_whole(path):
            raise Problem(f"{path}: half a checkpoint: there is no {SUMS} in it")
        return path.parent.parent, int(path.name)
    found = (path / "checkpoints").glob("*")
    steps = [int(p.name) for p in found if p.name.isdigit() and _is_whole(p)]
    if not steps:
        raise Problem(f"{path}: no whole checkpoint in it")
    return path, max(steps)


def describe(path: pathlib.Path) -> Description:
    """What a checkpoint says of itself; `path` as in `find`."""
    run, step = find(path)
    place = run / "checkpoints" / str(step)
    _compare_sums(place, "about")
    try:
        with _manager(run, create=False) as manager:
            args = ocp.args.Composite(about=ocp.args.JsonRestore())
            note = manager.restore(step, args=args).about
        if note["format"] != FORMAT:
            raise Problem(
                f"{place}: made by another version of this example: its format is "
                f"{note['format']}, here it is {FORMAT}"
            )
        return Description(
            ModelConfig.from_json(note["model"]),
            TrainConfig.from_json(note["training"]),
            note["step"],
            note["layer"],
            note["data"],
        )
    except Problem:
        raise
    except Exception as error:
        raise Problem(
            f"{place}: no checkpoint of this example, or a damaged one: "
            f"{_reason(error)}"
        ) from error


def check_model(path: pathlib.Path, found: ModelConfig, wanted: ModelConfig) -> None:
    """That a checkpoint is of this model and of these classes.

    Raises:
      Problem: It is not; says what differs first.
    """
    if found.classes != wanted.classes:
        raise Problem(
            f"{path}: its classes are {', '.join(found.classes[1:])}, and those of "
            f"the data are {', '.join(wanted.classes[1:])}"
        )
    for field in dataclasses.fields(ModelConfig):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        if theirs != ours:
            raise Problem(
                f"{path}: a checkpoint of another model: its {field.name} is {theirs}, "
                f"wanted is {ours}"
            )


def restore(path: pathlib.Path, like: TrainState) -> TrainState:
    """The state of a checkpoint; `like` has its shapes and where they go.

    Raises:
      Problem: It cannot be read, or its arrays are not those of `like`.
    """
    run, step = find(path)
    place = run / "checkpoints" / str(step)
    _compare_sums(place, "state")
    try:
        with _manager(run, create=False) as manager:
            wanted = ocp.args.StandardRestore(like._asdict())
            args = ocp.args.Composite(state=wanted)
            return TrainState(**manager.restore(step, args=args).state)
    except Exception as error:
        raise Problem(
            f"{place}: the checkpoint cannot be read: {_reason(error)}"
        ) from error


def _is_whole(place: pathlib.Path) -> bool:
    return (place / SUMS).is_file()


def _sum(file: pathlib.Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_sums(place: pathlib.Path) -> None:
    """The sums of a checkpoint's files as `sha256sum --check` reads them."""
    files = sorted(p for p in place.rglob("*") if p.is_file())
    half = place.with_name(f"{place.name}.{SUMS}")
    try:
        with half.open("w") as opened:
            for file in files:
                print(
                    f"{_sum(file)}  {file.relative_to(place).as_posix()}", file=opened
                )
            opened.flush()
            os.fsync(opened.fileno())
        half.replace(place / SUMS)
    finally:
        half.unlink(missing_ok=True)


def _compare_sums(place: pathlib.Path, item: str) -> None:
    """That the files of one item of a checkpoint are as they were written."""
    try:
        for line in (place / SUMS).read_text().splitlines():
            was, _, name = line.partition("  ")
            if name.startswith(f"{item}/") and _sum(place / name) != was:
                raise Problem(f"{place}: the checkpoint is damaged: {name} has changed")
    except (OSError, UnicodeError) as error:
        raise Problem(f"{place}: the checkpoint cannot be read: {error}") from error


def _reason(error: BaseException) -> str:
    """The first line of what an error says; the system's own words where it has."""
    text = str(error)
    for known in ("No space left on device", "File too large", "Permission denied"):
        if known in text:
            return known
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.split(". See full")[0][:300] or type(error).__name__
