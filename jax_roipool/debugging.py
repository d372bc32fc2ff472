"""What is odd about the values of a call: for the "I get zeros" of a first try."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import arguments, forms
from jax_roipool.arguments import ArrayLike, Features, Layout, Scales
from jax_roipool.geometry.caffe_bins import bin_bounds


def check_inputs(
    features: Features,
    rois: ArrayLike,
    output_size: int | tuple[int, int] = 1,
    spatial_scale: Scales = 1.0,
    *,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
) -> list[str]:
    """Looks at the values of a call and says in sentences what is odd about them.

    For debugging: an op gives zeros for a RoI without an image and one value for a
    RoI of one cell, which is right and seldom what was meant. Takes the arguments of
    `roi_pool`, outside of `jit`, and costs the ops nothing.

    Args:
      features: As in `roi_pool`; the values do not matter.
      rois: As in `roi_pool`.
      output_size: As in `roi_pool`.
      spatial_scale: As in `roi_pool`.
      levels: As in `roi_pool`.
      valid: As in `roi_pool`.
      layout: As in `roi_pool`.

    Returns:
      Sentences, each about one thing: how many RoIs are empty and why, lie outside
      the map, are one cell, are reversed; coordinates that look normalised, image
      indices with fractions, a scale above 1. An empty list where nothing is odd.

    Raises:
      TypeError, ValueError: As `roi_pool`, and where values are traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import check_inputs
      >>> features = jnp.zeros((1, 38, 63, 512))
      >>> rois = jnp.array([[0, 0.1, 0.1, 0.5, 0.5]])
      >>> for sentence in check_inputs(features, rois, 7, spatial_scale=1 / 16):
      ...     print(sentence)
      All coordinates lie from 0 to 1 and look normalised: boxes are in pixels.
      1 of 1 RoIs is one cell of the map, which every bin then shows.
    """
    traced = (isinstance(x, jax.core.Tracer) for x in (rois, levels, valid))
    if any(traced) or any(
        isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(features)
    ):
        raise TypeError(
            "check_inputs looks at values, and rois are traced: call it outside of "
            "jit, vmap and grad"
        )
    return _sentences(
        *arguments.check_call(
            features, rois, output_size, spatial_scale, levels, valid, layout
        )
    )


def _sentences(arrays: arguments.Arrays, config: arguments.Config) -> list[str]:
    rois = arrays.rois
    count = int(np.prod(rois.shape[:-1]))
    if not count:
        return ["There are no RoIs."]
    rows = -3 if config.layout == "NHWC" else -2
    sizes = [x.shape[rows : rows + 2 or None] for x in arrays.maps]
    images = arrays.maps[0].shape[0]
    read = forms.read_rois(arrays, len(sizes), images)
    boxes, image_index, level = (
        np.asarray(x) for x in (read.boxes, read.image_index, read.level)
    )
    boxes_np = boxes.reshape(-1, 4)
    some, level = image_index.reshape(-1) >= 0, level.reshape(-1)
    odd: list[str] = []

    def say(which: np.ndarray, what: str, whole: np.ndarray | None = None) -> None:
        number = int(which.sum())
        of = count if whole is None else int(whole.sum())
        if number:
            odd.append(f"{number} of {of} RoIs {'is' if number == 1 else 'are'} {what}")

    scales = config.spatial_scale if len(sizes) > 1 else config.spatial_scale[0]
    if np.max(scales) > 1:
        odd.append(
            f"spatial_scale {scales} is above 1: it is cells of the map "
            "per pixel of the image, 1/16 for a map 16 times smaller."
        )
    off = np.zeros(count, bool)
    if arrays.valid is not None:
        off = ~np.asarray(arrays.valid).reshape(-1)
    say(off, "empty because `valid` is false, and give zeros.")
    infinite = ~off & ~np.isfinite(boxes_np).all(axis=1)
    say(infinite, "empty because a number of the box is not finite, and give zeros.")
    levelless = ~off & ~infinite & (level < 0)
    say(
        levelless,
        f"empty because the level is none of 0 to {len(sizes) - 1}, and give zeros.",
    )
    nameless = ~off & ~infinite & ~levelless & ~some
    if rois.shape[-1] == 5:
        index = np.asarray(rois[:, 0]).astype(np.float64)
        if nameless.any():
            which = int(nameless.argmax())
            say(
                nameless,
                f"empty because the image index is none of 0 to {images - 1} "
                f"(RoI {which} has {index[which]:g}), and give zeros.",
            )
        say(
            some & (index % 1 != 0),
            "given a fraction as image index, which is "
            "dropped: the columns are (image index, x1, y1, x2, y2).",
            some,
        )
    if not some.any():
        odd.append("All RoIs are empty: the result is zeros, and so is the gradient.")
        return odd
    good = boxes_np[some]
    if good.max() <= 1 and good.min() >= 0 and np.min(sizes) > 1:
        odd.append(
            "All coordinates lie from 0 to 1 and look normalised: boxes are in pixels."
        )
    reversed_ = np.zeros(count, bool)
    reversed_[some] = (good[:, 2:] < good[:, :2]).any(axis=1)
    say(
        reversed_,
        "reversed, x2 < x1 or y2 < y1: boxes are (x1, y1, x2, y2), not x, y, width "
        "and height, and not y before x.",
        some,
    )
    inside, single = np.zeros(count, bool), np.zeros(count, bool)
    extents = np.asarray(sizes)[level[some]]
    spans = []
    for axis in (0, 1):
        low, high = jnp.asarray(good[:, 1 - axis]), jnp.asarray(good[:, 3 - axis])
        bounds = [
            np.stack(bin_bounds(low, high, scale[axis], 1, 2**24))[..., 0]
            for scale in config.spatial_scale
        ]
        begin, end = np.choose(level[some], bounds)
        spans.append((begin, end, extents[:, axis]))
    inside[some] = np.all([(b < e) & (b < n) for b, e, n in spans], axis=0)
    where = f"map of {sizes[0][0]} x {sizes[0][1]} cells"
    say(
        some & ~inside,
        f"wholly outside of the {where if len(sizes) == 1 else 'map of its level'}, "
        f"and give zeros: is spatial_scale {scales} right?",
        some,
    )
    single[some] = np.all([e - b == 1 for b, e, _ in spans], axis=0)
    say(inside & single, "one cell of the map, which every bin then shows.", some)
    return odd
