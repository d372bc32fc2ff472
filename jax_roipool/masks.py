"""Masks of instances pasted into an image, and features read at points.

NumPy arrays in, NumPy arrays out: JAX then computes nothing. Where any argument is a
JAX array the results are too, and the functions work under `jit`, `vmap`, `grad` and
`shard_map`. Boxes and points are read as float32. Masks and features in float16,
bfloat16, float32 or float64 give results in their dtype, computed in float32 or wider;
others, bool among them, count as float32.

>>> import numpy as np
>>> from jax_roipool import masks
>>> masks.paste_masks(np.ones((1, 2, 2)), [[1, 0, 3, 2]], (2, 4)).round(2)
array([[[0., 1., 1., 0.],
        [0., 1., 1., 0.]]])
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool.arguments import check_int, is_real, refuse_mask
from jax_roipool.boxes.arrays import HALF, ONE, ZERO, as_boxes, as_real, namespace

__all__ = ["map_pasted_masks", "paste_masks", "point_sample"]

Rule = Literal["detectron2", "torchvision"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
# float32 counts pixel centers, which lie at half pixels, up to here.
_MAX_PIXELS = 2**23


def paste_masks(
    masks: Any, boxes: Any, image_size: tuple[int, int], *, rule: Rule = "detectron2"
) -> Any:
    """Masks that a network gives for boxes, in the image.

    "detectron2" lays the M x M cells of a mask over its box and reads it at the
    centers of the image's pixels, `(column + 1/2, row + 1/2)`: bilinear between centers
    of cells, and 0 for cells outside of the mask, to which it falls off over the half
    cell inside of the box's border and the half outside.

    "torchvision" surrounds the mask with a ring of zeros, lets the box grow with it,
    drops the fractions of its corners and resizes the mask to the pixels from corner to
    corner, both inclusive.

    Args:
      masks: [R, M, M], rows before columns; any real dtype, or bool.
      boxes: [R, 4] = (x1, y1, x2, y2) in pixels of the image, any real dtype.
      image_size: (H, W), the image's rows and columns; static ints.
      rule: "detectron2" or "torchvision"; static.

    Returns:
      [R, H, W]: the masks' values, and 0 where they do not reach. `>= 0.5` makes masks
      of probabilities binary. A box that is not finite or is inverted gives zeros, and
      so does one without area by detectron2's rule; by torchvision's it is a pixel. A
      NaN or infinity in a mask shows where it has a weight. [R, H, W] is large:
      `map_pasted_masks` holds one mask at a time.

    Gradient:
      Of masks by both rules; of boxes by detectron2's, and 0 by torchvision's. Where a
      pixel's center meets that of a cell the derivative of the value by the place in
      the mask is the right-hand one. Through a box that gives zeros nothing flows back;
      cells that are not finite count as 0 in gradients of boxes, and take none.

    Raises:
      TypeError, ValueError: An argument is not real, has the wrong shape, is traced
        where it must be static, or names no rule.

    Source:
      `_do_paste_mask` of detectron2 (Wu et al. 2019), `paste_masks_in_image` of
      torchvision.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool.masks import paste_masks
      >>> mask = jnp.array([[[0.0, 1.0], [0.0, 1.0]]])
      >>> paste_masks(mask, jnp.array([[0.0, 0.0, 4.0, 2.0]]), (2, 5))
      Array([[[0.  , 0.25, 0.75, 0.75, 0.25],
              [0.  , 0.25, 0.75, 0.75, 0.25]]], dtype=float32)
    """
    masks, boxes, size = _check_paste(masks, boxes, image_size, rule)
    if namespace(masks, boxes) is jnp:
        return _paste_all(masks, boxes, size=size, rule=rule)
    pasted = np.empty((len(masks), *size), masks.dtype)
    for i in range(len(masks)):
        pasted[i] = _paste_one(masks[i], boxes[i], size, rule)
    return pasted


def map_pasted_masks(
    function: Callable[[Any], Any],
    masks: Any,
    boxes: Any,
    image_size: tuple[int, int],
    *,
    rule: Rule = "detectron2",
    batch_size: int = 1,
) -> Any:
    """What `function` makes of each pasted mask, without all of them in memory.

    100 masks of 800 x 1333 pixels are 427 MB in float32, of which most is wanted as
    bits, areas or overlaps. This is `jax.lax.map` of `paste_masks`; gradients paste
    again and hold no more. Call it under `jit`; masks that are sharded over R, of which
    `jax.lax.map` takes one after another, inside `shard_map`.

    Args:
      function: Takes a pasted mask [H, W], returns an array or a pytree of arrays.
      masks: [R, M, M], as in `paste_masks`.
      boxes: [R, 4], likewise.
      image_size: (H, W), likewise.
      rule: "detectron2" or "torchvision", likewise.
      batch_size: How many masks are pasted at once, and `function` mapped over; static.
        With NumPy it is always one.

    Returns:
      The results of `function`, stacked along a new first axis of size R.

    Raises:
      TypeError, ValueError: As `paste_masks`; or `batch_size` is no int above 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax_roipool.masks import map_pasted_masks
      >>> masks = jnp.ones((2, 28, 28))
      >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 64.0, 48.0]])
      >>> @jax.jit
      ... def packed(masks, boxes):  # a bit per pixel, for the way to the host
      ...     pack = lambda pasted: jnp.packbits(pasted >= 0.5, axis=-1)
      ...     return map_pasted_masks(pack, masks, boxes, (48, 64))
      >>> packed(masks, boxes).shape
      (2, 48, 8)
    """
    masks, boxes, size = _check_paste(masks, boxes, image_size, rule)
    batch_size = check_int("batch_size", batch_size, 1)
    if namespace(masks, boxes) is np:
        pairs = zip(masks, boxes, strict=True)
        results = [function(_paste_one(*pair, size, rule)) for pair in pairs]
        if not results:
            one = function(np.zeros(size, masks.dtype))
            return jax.tree.map(lambda x: np.asarray(x)[None][:0], one)
        return jax.tree.map(lambda *x: np.stack(x), *results)

    # Else what `function` keeps for its gradient would be kept of all masks.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def call(one: tuple[jax.Array, jax.Array]) -> Any:
        mask, box = one
        return function(_paste_all(mask[None], box[None], size=size, rule=rule)[0])

    each = jnp.asarray(masks), jnp.asarray(boxes)
    return jax.lax.map(call, each, batch_size=batch_size if batch_size > 1 else None)


def point_sample(features: Any, points: Any) -> Any:
    """Features at points of a map, as PointRend and Mask2Former read them.

    Bilinear between centers of cells, which lie at half cells: the point (x, y) is read
    at column `x * W - 1/2` and row `y * H - 1/2`. Cells outside of the map are 0.

    Args:
      features: [H, W, C]; any real dtype, or bool.
      points: [P, 2] = (x, y), from (0, 0), the map's upper left corner, to (1, 1), its
        lower right; any real dtype.

    Returns:
      [P, C]. A point that is not finite gives zeros, as does one that is half a cell or
      more outside of the map. A cell whose weight is 0 is not read.

    Gradient:
      Of features, and of points: the derivative of the value by the place in the map;
      where a point meets the center of a cell, the right-hand one. Through a point that
      gives zeros nothing flows back.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Source:
      `point_sample` of PointRend (Kirillov et al. 2020), which is torch's
      `grid_sample(features, 2 * points - 1, align_corners=False)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool.masks import point_sample
      >>> features = jnp.arange(4.0).reshape(2, 2, 1)
      >>> point_sample(features, jnp.array([[0.25, 0.25], [0.5, 0.5], [1.0, 0.75]]))
      Array([[0. ],
             [1.5],
             [1.5]], dtype=float32)
    """
    features = _as_values("features", features, "[H, W, C]")
    points = as_real("points", points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape [P, 2] = (x, y), got {points.shape}")
    if namespace(features, points) is jnp:
        return _sample_compiled(features, points)
    with np.errstate(all="ignore"):
        return _sample(features, points, np)


# --- Checks ------------------------------------------------------------------


def _as_values(name: str, value: Any, axes: str) -> Any:
    """`value` as a float array, of which JAX's own are converted where compiled."""
    refuse_mask(name, value)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not is_real(array.dtype) and array.dtype != bool:
        raise TypeError(f"{name} must be real numbers or bool, got dtype {array.dtype}")
    if array.ndim != 3:
        raise ValueError(f"{name} must have shape {axes}, got {array.shape}")
    if isinstance(array, jax.Array) or array.dtype.name in _FLOATS:
        return array
    return array.astype(np.float32)


def _check_paste(
    masks: Any, boxes: Any, image_size: Any, rule: Any
) -> tuple[Any, Any, tuple[int, int]]:
    masks = _as_values("masks", masks, "[R, M, M]")
    if 0 in masks.shape[1:]:
        raise ValueError(f"masks must have cells, got shape {masks.shape}")
    boxes = as_boxes("boxes", boxes, least_ndim=2)
    if boxes.ndim != 2 or boxes.shape[0] != masks.shape[0]:
        raise ValueError(
            f"boxes must have shape [R, 4], a box for each of {masks.shape[0]} masks, "
            f"got {boxes.shape}"
        )
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise TypeError(
            f"image_size must be a pair of static ints (H, W), got {image_size!r}"
        )
    height, width = (check_int("image_size", x, 0, _MAX_PIXELS) for x in image_size)
    if not isinstance(rule, str) or rule not in _RULES:
        raise ValueError(f"rule must be one of {(*_RULES,)}, got {rule!r}")
    return masks, boxes, (height, width)


# --- One mask, one map: NumPy and JAX alike ----------------------------------


def _result_and_working_dtype(dtype: Any) -> tuple[Any, Any]:
    result = dtype if dtype.name in _FLOATS else np.dtype(np.float32)
    return result, np.float64 if result == np.float64 else np.float32


def _places_by_detectron2(low: Any, high: Any, pixels: Any, cells: int, xp: Any) -> Any:
    """Where pixels along an axis lie in a mask: at cell 0, 1, ..., or in between.

    -1, where no cell has a weight, for pixels that the box does not reach.
    """

    def place(offset: Any, side: Any) -> Any:
        return offset / side * np.float32(cells) - HALF

    offset, side = pixels + HALF - low, high - low
    raw = place(offset, side)
    inside = (side > 0) & (side < np.inf) & (raw >= -1) & (raw < cells)
    # What is selected after is harmless before, so that gradients are finite.
    offset, side = xp.where(inside, offset, ZERO), xp.where(inside, side, ONE)
    return xp.where(inside, place(offset, side), -ONE)


def _places_by_torchvision(
    low: Any, high: Any, pixels: Any, cells: int, xp: Any
) -> Any:
    if xp is jnp:  # corners are whole pixels
        low, high = jax.lax.stop_gradient((low, high))
    middle, half = (high + low) * HALF, (high - low) * HALF
    # Selected, so that no compiler rounds product and difference as one: at a whole
    # number that would move a corner by a pixel.
    half = xp.where(half >= 0, half * np.float32((cells + 2) / cells), -ONE)
    begin, end = xp.trunc(middle - half), xp.trunc(middle + half)
    length = end - begin + ONE
    some = (half >= 0) & (length < np.inf)
    inside = some & (pixels >= begin) & (pixels <= end)
    place = (pixels - begin + HALF) * (np.float32(cells + 2) / length) - HALF - ONE
    return xp.where(inside, place, -ONE)


_RULES = {"detectron2": _places_by_detectron2, "torchvision": _places_by_torchvision}


def _band(places: Any, cells: int, xp: Any) -> Any:
    """[places, cells]: the weights of a linear interpolation, 0 beyond the cells."""
    first = xp.floor(places)
    part = (places - first)[:, None]
    cell = first[:, None] - xp.arange(cells, dtype=np.float32)[None]
    return xp.where(cell == 0, ONE - part, xp.where(cell == -1, part, ZERO))


def _bands(box: Any, cells: Any, size: Any, rule: str, dtype: Any, xp: Any) -> Any:
    """The weights [H, M] of rows and [W, M] of columns of a mask in its box."""
    x1, y1, x2, y2 = (box[i].astype(np.float32) for i in range(4))

    def band(low: Any, high: Any, extent: int, cells: int) -> Any:
        pixels = xp.arange(extent, dtype=np.float32)
        places = _RULES[rule](low, high, pixels, cells, xp)
        return _band(places, cells, xp).astype(dtype)

    return band(y1, y2, size[0], cells[0]), band(x1, x2, size[1], cells[1])


def _apply(mask: Any, rows: Any, columns: Any, xp: Any) -> Any:
    """The mask in the image, [H, W]."""
    dot = np.dot if xp is np else functools.partial(jnp.dot, precision="highest")
    return dot(rows, dot(mask, columns.T))


def _apply_to_any(mask: Any, rows: Any, columns: Any, xp: Any) -> Any:
    """Likewise, where 0 times what is not finite is 0."""
    finite, nan = xp.isfinite(mask), xp.isnan(mask)
    pasted = _apply(xp.where(finite, mask, 0), rows, columns, xp)
    # A NaN is an infinity of either sign. A pixel reads four cells at most, so the
    # digits of a sum, base 8, count both.
    signs = xp.where(nan | (mask == np.inf), 1, 0)
    signs = signs + xp.where(nan | (mask == -np.inf), 8, 0)
    has_weight = (rows != 0).astype(mask.dtype), (columns != 0).astype(mask.dtype)
    read = _apply(signs.astype(mask.dtype), *has_weight, xp)
    for infinity, found in ((np.inf, read % 8 > 0), (-np.inf, read >= 8)):
        pasted = pasted + xp.where(found, infinity, 0).astype(mask.dtype)
    return pasted


def _paste_one(mask: Any, box: Any, size: tuple[int, int], rule: str) -> Any:
    result, working = _result_and_working_dtype(mask.dtype)
    apply = _apply if np.isfinite(mask).all() else _apply_to_any
    with np.errstate(all="ignore"):  # odd boxes are answered
        rows, columns = _bands(box, mask.shape, size, rule, working, np)
        return apply(mask.astype(working), rows, columns, np).astype(result)


@jax.custom_batching.custom_vmap
def _any(x: jax.Array) -> jax.Array:
    return x.any()


@_any.def_vmap
def _any_of_batch(_: int, __: Any, x: jax.Array) -> tuple[jax.Array, bool]:
    # One answer for all examples: where each has its own, `cond` takes both branches.
    return _any(x), False


@functools.partial(jax.jit, static_argnames=("size", "rule"))
def _paste_all(
    masks: jax.Array, boxes: jax.Array, *, size: tuple[int, int], rule: str
) -> jax.Array:
    result, working = _result_and_working_dtype(masks.dtype)
    masks = masks.astype(working)
    rows, columns = jax.vmap(
        lambda box: _bands(box, masks.shape[1:], size, rule, working, jnp)
    )(boxes)

    def paste(apply: Any, each: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return apply(*each, jnp).astype(result)

    return jax.lax.cond(  # what is not finite is rare, and takes twice as long
        _any(~jnp.isfinite(masks)),
        jax.vmap(functools.partial(paste, _apply_to_any)),
        jax.vmap(functools.partial(paste, _apply)),
        (masks, rows, columns),
    )


def _sample(features: Any, points: Any, xp: Any) -> Any:
    result, working = _result_and_working_dtype(features.dtype)
    total = xp.zeros((points.shape[0], features.shape[2]), working)
    if 0 in features.shape[:2]:
        return total.astype(result)
    points = points.astype(np.float32)
    extents = np.array(features.shape[1::-1], np.float32)[None]  # of (x, y)
    places = points * extents - HALF
    inside = ((places >= -1) & (places < extents)).all(axis=-1, keepdims=True)
    places = xp.where(inside, places, -ONE)
    first = xp.floor(places)
    part, first = places - first, first.astype(np.int32)
    last = np.array(features.shape[1::-1], np.int32)[None] - 1
    for corner in np.ndindex(2, 2):
        cell = first + np.array(corner, np.int32)[None]
        weights = xp.where(np.array(corner, bool)[None], part, ONE - part)
        weight = (weights[:, 0] * weights[:, 1])[:, None]
        exists = ((cell >= 0) & (cell <= last)).all(axis=-1, keepdims=True)
        cell = xp.clip(cell, 0, last)
        value = features[cell[:, 1], cell[:, 0]].astype(working)
        read = exists & ((weight != 0) | xp.isfinite(value))
        total = total + xp.where(read, value, 0) * weight.astype(working)
    return total.astype(result)


_sample_compiled = jax.jit(functools.partial(_sample, xp=jnp))
