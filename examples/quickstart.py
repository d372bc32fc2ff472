"""RoI pooling and RoIAlign on a photograph: forward, backward, and a picture.

    python examples/quickstart.py                    # a photograph that ships
    python examples/quickstart.py --image cat.jpg    # your own

Needs the extra `examples`: pip install 'jax_roipool[examples]'
"""

import argparse
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import skimage
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jax_roipool import roi_align, roi_pool_with_argmax
from jax_roipool.nnx import RoIPool

BINS = 7
SAMPLES = 2  # per bin and axis, of RoIAlign
STRIDE = 8  # pixels per cell of the feature map
LEAST_SIDE = 64  # pixels: below that the boxes are smaller than a cell
BIN_COLORS = ("#1f9bff", "#ff5a36")
COLORS = ("#e6194b", "#f58231", "#3cb44b", "#4363d8", "#911eb4")

# (x1, y1, x2, y2) in pixels, corners inclusive, of scikit-image's astronaut:
# face, mission patch, name tag, helmet, model of the Shuttle.
ASTRONAUT_BOXES = (
    (168, 40, 286, 200),
    (128, 340, 214, 428),
    (272, 328, 336, 384),
    (302, 346, 504, 511),
    (366, 0, 474, 226),
)


class EdgeFeatures(nnx.Module):
    """A small feature extractor: edges of 8 directions, a cell per 8 pixels.

    A convolution with oriented filters, as the first layer of a trained
    network looks, so that the maps mean something without training.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.edges = nnx.Conv(3, 8, (9, 9), strides=2, kernel_init=oriented, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = jnp.abs(self.edges(images))
        x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return nnx.avg_pool(x, (2, 2), strides=(2, 2))


def oriented(key: jax.Array, shape: tuple[int, ...], dtype: object) -> jax.Array:
    """One odd Gabor filter per output channel, over grey."""
    del key
    height, width, channels, directions = shape
    y, x = np.mgrid[:height, :width] - (np.array([height, width]) // 2)[:, None, None]
    angle = np.arange(directions) * np.pi / directions
    along = x[..., None] * np.cos(angle) + y[..., None] * np.sin(angle)
    envelope = np.exp(-(x**2 + y**2) / (2 * 2.2**2))[..., None]
    kernel = np.sin(along * 0.9) * envelope
    kernel /= np.abs(kernel).sum(axis=(0, 1))
    return jnp.broadcast_to(jnp.asarray(kernel / channels, dtype)[:, :, None], shape)


class Detector(nnx.Module):
    """The part of a detector that is about RoIs: features, then their bins."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.features = EdgeFeatures(rngs)
        self.pool = RoIPool(BINS, spatial_scale=1 / STRIDE)

    def __call__(self, images: jax.Array, rois: jax.Array) -> jax.Array:
        return self.pool(self.features(images), rois)


def boxes_for(height: int, width: int) -> np.ndarray:
    """Five boxes of different shapes for a photograph that nobody knows."""
    shares = [
        (0.08, 0.10, 0.42, 0.55),
        (0.50, 0.06, 0.92, 0.34),
        (0.30, 0.30, 0.70, 0.75),
        (0.06, 0.62, 0.36, 0.94),
        (0.62, 0.45, 0.94, 0.92),
    ]
    return np.array(shares) * [width, height, width, height] // 1


def load(path: pathlib.Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The photograph as floats in [0, 1], its sides at most 1024, and boxes.

    Raises:
      ValueError: It is no image, or a small one.
    """
    if path is None:
        return skimage.data.astronaut() / 255.0, np.array(ASTRONAUT_BOXES)
    try:
        with path.open("rb") as stream:  # which its readers may leave open
            image = skimage.util.img_as_float(skimage.io.imread(stream))
    except Exception as error:  # each of its readers has its own
        raise ValueError(f"{path}: no image that can be read: {error}") from error
    if image.ndim == 4:
        image = image[0]  # of an animation
    if image.ndim == 3 and image.shape[-1] == 2:
        image = image[..., 0]  # grey, and how opaque it is
    if image.ndim == 2:
        image = skimage.color.gray2rgb(image)
    elif image.shape[-1] == 4:
        image = skimage.color.rgba2rgb(image)
    shrink = 1024 / max(image.shape[:2])
    if shrink < 1:
        image = skimage.transform.rescale(
            image, shrink, channel_axis=-1, anti_aliasing=True
        )
    if min(image.shape[:2]) < LEAST_SIDE:
        raise ValueError(
            f"{path}: at least {LEAST_SIDE} x {LEAST_SIDE} pixels are needed, here are "
            f"{image.shape[1]} x {image.shape[0]} (of 1024 at most)"
        )
    return image, boxes_for(*image.shape[:2])


# --- The picture -----------------------------------------------------------


def draw_box(ax: Axes, box: np.ndarray, color: str, label: str = "") -> None:
    """A box of inclusive pixels or cells."""
    x1, y1, x2, y2 = box
    ax.add_patch(
        Rectangle(
            (x1 - 0.5, y1 - 0.5),
            x2 - x1 + 1,
            y2 - y1 + 1,
            fill=False,
            edgecolor=color,
            linewidth=2,
        )
    )
    if label:
        ax.text(
            x1,
            y1,
            label,
            color="white",
            fontsize=9,
            fontweight="bold",
            verticalalignment="top",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5},
        )


def draw_cells(ax: Axes, energy: np.ndarray, box: np.ndarray) -> None:
    """The feature grid around a box of inclusive cells, as squares."""
    height, width = energy.shape
    x1, y1, x2, y2 = box
    inside = energy[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
    ax.imshow(energy, cmap="gray", vmin=0, vmax=inside.max())
    # A square view, as the panels beside it are.
    reach = max(x2 - x1, y2 - y1) / 2 + 2
    ax.set_xlim((x1 + x2) / 2 - reach, (x1 + x2) / 2 + reach)
    ax.set_ylim((y1 + y2) / 2 + reach, (y1 + y2) / 2 - reach)
    ax.set_facecolor("black")
    for k in range(height + 1):
        ax.axhline(k - 0.5, color="white", linewidth=0.3, alpha=0.35)
    for k in range(width + 1):
        ax.axvline(k - 0.5, color="white", linewidth=0.3, alpha=0.35)


def draw_bin(ax: Axes, i: int, j: int, left: float, top: float, size: Any) -> None:
    """The bin of row i and column j, in cells."""
    color = BIN_COLORS[(i + j) % 2]
    ax.add_patch(
        Rectangle((left, top), *size, facecolor=(color, 0.28), edgecolor=(color, 0.9))
    )


def draw_points(ax: Axes, columns: np.ndarray, rows: np.ndarray, size: float) -> None:
    """What a bin reads: cells or samples."""
    ax.plot(
        columns, rows, "o", color="#ffe119", markersize=size, markeredgecolor="black"
    )


def draw_bins(
    ax: Axes, energy: np.ndarray, box: np.ndarray, argmax: np.ndarray
) -> None:
    """One RoI of max pooling: its cells, its bins, where maxima lie."""
    cells = x1, y1, x2, y2 = np.floor(box / STRIDE + 0.5).astype(int)
    draw_cells(ax, energy, cells)
    size = np.float32([x2 - x1 + 1, y2 - y1 + 1]) / np.float32(BINS)
    for i, j in np.ndindex(BINS, BINS):
        left, top = np.floor([j * size[0], i * size[1]])
        right, bottom = np.ceil([(j + 1) * size[0], (i + 1) * size[1]])
        of_bin = (right - left, bottom - top)
        draw_bin(ax, i, j, x1 + left - 0.5, y1 + top - 0.5, of_bin)
    draw_box(ax, cells, COLORS[0])
    rows, columns = np.divmod(argmax, energy.shape[1])
    draw_points(ax, columns, rows, 5)


def draw_samples(ax: Axes, energy: np.ndarray, box: np.ndarray) -> None:
    """The same RoI of RoIAlign: no rounding, and samples between cells."""
    draw_cells(ax, energy, np.floor(box / STRIDE + 0.5).astype(int))
    x1, y1, x2, y2 = box / STRIDE - 0.5
    size = np.array([x2 - x1, y2 - y1]) / BINS
    for i, j in np.ndindex(BINS, BINS):
        draw_bin(ax, i, j, x1 + j * size[0], y1 + i * size[1], size)
    where = (np.arange(BINS * SAMPLES) + 0.5) / SAMPLES
    columns, rows = np.meshgrid(x1 + where * size[0], y1 + where * size[1])
    draw_points(ax, columns.ravel(), rows.ravel(), 3)
    ax.add_patch(
        Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=COLORS[0], linewidth=2
        )
    )


def picture(
    photo: np.ndarray,
    boxes: np.ndarray,
    features: np.ndarray,
    pooled: np.ndarray,
    argmax: np.ndarray,
    aligned: np.ndarray,
    gradient: np.ndarray,
) -> plt.Figure:
    """The photograph, bins and samples of one RoI, the gradient, the pooled maps."""
    figure = plt.figure(figsize=(20, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.4, 1])
    photo_ax, bins_ax, samples_ax, gradient_ax = top.subplots(1, 4)

    photo_ax.imshow(photo)
    photo_ax.set_title(f"{len(boxes)} regions of interest")
    for k, (box, color) in enumerate(zip(boxes, COLORS, strict=True)):
        draw_box(photo_ax, box, color, str(k + 1))

    # The channel that answers most within the first region.
    channel = int(pooled[0].sum(axis=(0, 1)).argmax())
    draw_bins(
        bins_ax,
        features[..., channel],
        boxes[0],
        argmax[0, ..., channel].ravel(),
    )
    bins_ax.set_title(
        f"roi_pool: region 1 on one of the {features.shape[-1]} feature maps,\n"
        f"its {BINS}×{BINS} bins and the maximum of each"
    )
    draw_samples(samples_ax, features[..., channel], boxes[0])
    samples_ax.set_title(
        f"roi_align: the same, not rounded,\n{SAMPLES}×{SAMPLES} samples of each bin"
    )

    strength = np.abs(gradient).sum(axis=-1)
    strength = np.clip(strength / np.quantile(strength, 0.99), 0, 1) ** 0.7
    dimmed = photo.mean(axis=-1, keepdims=True) * 0.45
    glow = plt.cm.inferno(strength)[..., :3]
    gradient_ax.imshow(np.maximum(np.repeat(dimmed, 3, axis=-1), glow))
    gradient_ax.set_title(
        "where the gradient of roi_pool's sum flows back:\n"
        "through the maxima, and nowhere else"
    )
    for k, (box, color) in enumerate(zip(boxes, COLORS, strict=True)):
        draw_box(gradient_ax, box, color, str(k + 1))

    axes = bottom.subplots(1, 2 * len(boxes))
    shown = np.stack([pooled, aligned], axis=1).max(axis=-1)
    for k, ax in enumerate(axes):
        region, op = divmod(k, 2)
        ax.imshow(shown[region, op], cmap="viridis", vmin=0, vmax=shown.max())
        name = ("pool", "align")[op]
        ax.set_title(f"region {region + 1}: roi_{name}", color=COLORS[region])
    for ax in (photo_ax, bins_ax, samples_ax, gradient_ax, *axes):
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def main() -> None:
    """Pools, differentiates, draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--image",
        type=pathlib.Path,
        help="a photograph of yours instead of scikit-image's astronaut",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("quickstart.png"),
        help="where the picture goes (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.image is not None and not args.image.is_file():
        parser.error(f"no such file: {args.image}")
    if not args.output.parent.is_dir():
        parser.error(f"no such directory: {args.output.parent}")
    try:
        photo, boxes = load(args.image)
    except ValueError as error:
        parser.error(str(error))
    images = jnp.asarray(photo, jnp.float32)[None]  # [N, H, W, 3]
    index = np.zeros((len(boxes), 1))  # all in image 0
    rois = jnp.asarray(np.hstack([index, boxes]), jnp.float32)  # [K, 5]
    detector = Detector(nnx.Rngs(0))

    @nnx.jit
    def forward(detector: Detector, images: jax.Array, rois: jax.Array) -> jax.Array:
        return detector(images, rois)

    @nnx.jit
    def gradient_of_sum(
        detector: Detector, images: jax.Array, rois: jax.Array
    ) -> jax.Array:
        return jax.grad(lambda x: detector(x, rois).sum())(images)

    pooled = forward(detector, images, rois)
    gradient = gradient_of_sum(detector, images, rois)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(forward(detector, images, rois))
        seconds.append(time.perf_counter() - start)
    print(f"photograph {photo.shape[1]} x {photo.shape[0]}, {len(boxes)} boxes")
    print(f"pooled     {pooled.shape} in {min(seconds) * 1e3:.1f} ms, network included")
    print(f"gradient   {gradient.shape}, the photograph's shape")

    features = detector.features(images)
    _, argmax = roi_pool_with_argmax(features, rois, BINS, 1 / STRIDE)
    aligned = roi_align(features, rois, BINS, 1 / STRIDE, sampling_ratio=SAMPLES)
    figure = picture(
        photo,
        boxes,
        np.asarray(features[0]),
        np.asarray(pooled),
        np.asarray(argmax),
        np.asarray(aligned),
        np.asarray(gradient[0]),
    )
    figure.savefig(args.output, dpi=90)
    print(f"picture    {args.output.resolve()}")


if __name__ == "__main__":
    main()
