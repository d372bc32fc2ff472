"""Pictures: detections on images, and the curves of a run."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from examples.faster_rcnn.detect import Detections
from examples.faster_rcnn.problem import Problem
from jax_roipool.boxes import iou

LEAST_SCORE = 0.5  # of a detection that is drawn
SAME_PLACE = 0.5  # from this IoU on, whatever the classes


def color(k: int, classes: int) -> tuple[float, float, float]:
    """That of class k: the same in every picture."""
    if classes <= 11:
        return matplotlib.colormaps["tab10"]((k - 1) % 10)[:3]
    return matplotlib.colormaps["hsv"]((k - 1) * 0.618 % 1)[:3]


def shown(found: Detections, least: float) -> NDArray[np.intp]:
    """What is drawn, in order of falling score: of two in one place the better."""
    order = [i for i in np.argsort(-found.scores) if found.scores[i] >= least]
    kept: list[int] = []
    overlaps = iou(found.boxes, found.boxes, inclusive=True)
    for i in order:
        if overlaps[i, kept].max(initial=0) < SAME_PLACE:
            kept.append(i)
    return np.array(kept, np.intp)


def draw(
    ax: Axes,
    image: NDArray[np.uint8],
    found: Detections,
    classes: Sequence[str],
    least: float = LEAST_SCORE,
) -> None:
    """Boxes, classes and scores on an image."""
    ax.imshow(image)
    for i in shown(found, least)[::-1]:
        (x1, y1, x2, y2), k = found.boxes[i], int(found.classes[i])
        edge = color(k, len(classes))
        ax.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5),
                x2 - x1 + 1,
                y2 - y1 + 1,
                fill=False,
                edgecolor=edge,
                linewidth=1.8,
            )
        )
        room = y1 > 0.08 * image.shape[0]  # for the words, above the box
        ax.text(
            x1 - 0.5,
            y1 - 1 if room else y1,
            f"{classes[k]} {found.scores[i]:.2f}",
            color="white",
            fontsize=7,
            fontweight="bold",
            verticalalignment="bottom" if room else "top",
            clip_on=True,
            bbox={"facecolor": edge, "edgecolor": "none", "pad": 1},
        )
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)
    ax.set_xticks([])
    ax.set_yticks([])


def detections(
    images: Sequence[NDArray[np.uint8]],
    found: Sequence[Detections],
    classes: Sequence[str],
    file: pathlib.Path,
    *,
    least: float = LEAST_SCORE,
    title: str = "",
) -> None:
    """Images in rows of at most four, with what was found in them."""
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    tall = max(image.shape[0] / image.shape[1] for image in images)
    size = (3.6 * columns, 3.7 * min(tall, 2) * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(images) :]:
        ax.axis("off")
    for ax, image, own in zip(axes, images, found, strict=False):
        draw(ax, image, own, classes, least)
    if title:
        figure.suptitle(title)
    _save(figure, file)


def curves(entries: Sequence[dict[str, float]], file: pathlib.Path) -> None:
    """Loss and AP over the time of training."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, aps = figure.subplots(1, 2)
    logged = [e for e in entries if "loss" in e]
    scored = [e for e in entries if "AP50" in e]
    for name in ("loss", "class", "box", "rpn_class", "rpn_box"):
        some = [e for e in logged if name in e]
        losses.plot(
            [e["seconds"] for e in some], [e[name] for e in some], label=name, lw=1.2
        )
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss")
    losses.legend()
    for name in ("AP50", "AP75", "AP"):
        aps.plot(
            [e["seconds"] for e in scored], [e[name] for e in scored], "o-", label=name
        )
    aps.set_ylim(0, 1)
    aps.set_ylabel("average precision, test images")
    aps.legend(loc="lower right")
    for ax in (losses, aps):
        ax.set_xlabel("seconds of training")
        ax.grid(alpha=0.3)
    _save(figure, file)


def check(file: pathlib.Path) -> None:
    """Raises Problem where no picture can be written, before work is done for it."""
    kinds = Figure().canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in kinds:
        raise Problem(f"{file}: a picture's name ends in .png, .jpg, .pdf or .svg")
    check_parent(file)


def check_parent(file: pathlib.Path) -> None:
    """Raises Problem where there is no directory for a file."""
    if file.is_dir():
        raise Problem(f"{file}: a directory is there")
    if not file.parent.is_dir():
        raise Problem(f"{file}: there is no directory {file.parent}")


def _save(figure: Figure, file: pathlib.Path) -> None:
    """Whole or not at all, as the picture before it may be the last."""
    part = file.with_name(f".{file.name}.part{file.suffix}")
    figure.savefig(part, dpi=90)
    part.replace(file)
