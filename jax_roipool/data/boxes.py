"""Boxes: overlap, area, deltas, clipping, flipping, non-maximum suppression.

A box is `(x1, y1, x2, y2)` in pixels, corners inclusive: from 0 to 15 is 16
pixels wide, `x2 - x1 + 1`. All functions but `nms` take NumPy and JAX arrays
alike: where any argument is a JAX array the result is one (and the function works
under `jit`, `vmap` and `grad`), else it is NumPy's, and JAX computes nothing. Boxes
of any real dtype are read as float32, and results are float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MAX_LOG_SIZE = math.log(1000 / 16)
"""The greatest growth of a side that Detectron's decoding allows, as a logarithm."""

# Boxes compared at once in `nms`: a tile of T takes T * T overlaps. 128 to 512 are
# alike in time.
_TILE = 256


def _namespace(*arrays: Any) -> Any:
    """jax.numpy where any of the arrays is JAX's, else numpy."""
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def is_real(dtype: Any) -> bool:
    """Whether it is of integers or floats, JAX's own (bfloat16) among them."""
    return bool(
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )


def _as_float32(name: str, value: Any, xp: Any) -> Any:
    """`value` as a float32 array of `xp`; integers of any width do not wrap."""
    if xp is np and type(value) is np.ndarray and value.dtype == np.float32:
        return value  # what follows takes longer than some boxes' arithmetic
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not is_real(array.dtype):
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):  # beyond float32: infinite
        array = array.astype(np.float32)
    return xp.asarray(array)


def _as_boxes(name: str, value: Any, xp: Any) -> Any:
    boxes = _as_float32(name, value, xp)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(
            f"{name} must have shape [..., 4] = (x1, y1, x2, y2), got {boxes.shape}"
        )
    return boxes


def _in_fours(name: str, value: Any, xp: Any) -> Any:
    """[..., 4 * K] as [..., K, 4]."""
    array = _as_float32(name, value, xp)
    if array.ndim == 0 or array.shape[-1] % 4:
        raise ValueError(
            f"{name} must have shape [..., 4 * K], four numbers per class, got "
            f"{array.shape}"
        )
    return array.reshape(*array.shape[:-1], array.shape[-1] // 4, 4)


def _compiled(function: Any) -> Any:
    """The function of arrays and `xp`, as one program where the arrays are JAX's.

    Called outside `jit`, its operations would be compiled and run one by one.
    """
    jitted = jax.jit(function, static_argnames="xp")

    @functools.wraps(function)
    def call(*arrays: Any, xp: Any) -> Any:
        return (jitted if xp is jnp else function)(*arrays, xp=xp)

    return call


def _in_a_row(fours: Any) -> Any:
    """[..., K, 4] as [..., 4 * K]; of no boxes too, where -1 has no answer."""
    return fours.reshape(*fours.shape[:-2], 4 * fours.shape[-2])


def _product(width: Any, height: Any, xp: Any) -> Any:
    """`width * height`, and 0 where either is not above 0 (or is NaN).

    The selection also keeps compilers from fusing the product with a sum into
    one rounding, so NumPy and XLA on CPU give the same bits.
    """
    return xp.where((width > 0) & (height > 0), width * height, xp.float32(0))


def _iou(a: Any, b: Any, xp: Any) -> Any:
    """Of float32 boxes [..., 4] that broadcast."""
    # Infinite corners, and with them inf - inf, have no overlap.
    with np.errstate(invalid="ignore", over="ignore"):
        area_a, area_b = _areas(a, xp), _areas(b, xp)
        width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0]) + 1
        height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1]) + 1
        shared = _product(width, height, xp)
        # Rounding could make it more than a box has.
        shared = xp.minimum(shared, xp.minimum(area_a, area_b))
        union = area_a + area_b - shared
        some = (union > 0) & (union < np.inf)
        return xp.where(some, shared / xp.where(some, union, xp.float32(1)), 0)


def _areas(boxes: Any, xp: Any) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        width = boxes[..., 2] - boxes[..., 0] + 1
        height = boxes[..., 3] - boxes[..., 1] + 1
        return _product(width, height, xp)


def areas(boxes: Any) -> Any:
    """Pixels in each box, `(x2 - x1 + 1) * (y2 - y1 + 1)`.

    Args:
      boxes: [..., 4], any real dtype.

    Returns:
      float32 [...]. An inverted box, and one with a NaN, has area 0.

    Raises:
      TypeError, ValueError: `boxes` is not real or has no last axis of 4.

    Example:
      >>> from jax_roipool.data.boxes import areas
      >>> areas([[0, 0, 15, 9], [5, 5, 5, 5], [8, 0, 2, 9]])
      array([160.,   1.,   0.], dtype=float32)
    """
    xp = _namespace(boxes)
    return _areas_of(_as_boxes("boxes", boxes, xp), xp=xp)


@_compiled
def _areas_of(boxes: Any, xp: Any) -> Any:
    return _areas(boxes, xp)


def iou(boxes: Any, others: Any) -> Any:
    """Intersection over union of every box with every other (Jaccard overlap).

    Args:
      boxes: [..., N, 4], any real dtype.
      others: [..., M, 4]; leading axes broadcast.

    Returns:
      float32 [..., N, M], from 0 to 1, never NaN: a box that is inverted or not
      finite overlaps nothing. In float32, `shared / (area + area - shared)`, with
      the same bits from NumPy and from XLA on CPU.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.data.boxes import iou
      >>> iou([[0, 0, 9, 9]], [[0, 0, 9, 9], [0, 0, 9, 4], [5, 0, 14, 9]])
      array([[1.        , 0.5       , 0.33333334]], dtype=float32)
    """
    xp = _namespace(boxes, others)
    a, b = _as_boxes("boxes", boxes, xp), _as_boxes("others", others, xp)
    for name, array in (("boxes", a), ("others", b)):
        if array.ndim < 2:
            raise ValueError(f"{name} must have shape [..., N, 4], got {array.shape}")
    return _all_pairs(a, b, xp=xp)


@_compiled
def _all_pairs(boxes: Any, others: Any, xp: Any) -> Any:
    return _iou(boxes[..., :, None, :], others[..., None, :, :], xp)


def _center_and_size(boxes: Any) -> tuple[Any, Any]:
    size = boxes[..., 2:] - boxes[..., :2] + 1
    return boxes[..., :2] + np.float32(0.5) * size, size


def encode(boxes: Any, targets: Any, *, means: Any = None, stds: Any = None) -> Any:
    """The deltas (dx, dy, dw, dh) that turn boxes into targets.

    R-CNN's parametrisation (Girshick et al. 2014, appendix C): with centers `c`
    and sizes `s`, `dx = (c_target - c) / s` and `dw = log(s_target / s)`.

    Args:
      boxes: [..., 4], any real dtype.
      targets: [..., 4]; broadcasts with `boxes`.
      means: [..., 4] to subtract from the deltas, 0 if `None`.
      stds: [..., 4] to divide by afterwards, 1 if `None`.

    Returns:
      float32 [..., 4]. Where a box or its target is inverted or not finite the
      deltas are 0, before means and stds: a padded pair makes no NaN.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.data.boxes import encode
      >>> encode([[0, 0, 9, 9]], [[5, 0, 14, 19]])
      array([[0.5      , 0.5      , 0.       , 0.6931472]], dtype=float32)
    """
    xp = _namespace(boxes, targets, means, stds)
    a, b = _as_boxes("boxes", boxes, xp), _as_boxes("targets", targets, xp)
    if means is not None:
        means = _as_boxes("means", means, xp)
    if stds is not None:
        stds = _as_boxes("stds", stds, xp)
    return _encode(a, b, means, stds, xp=xp)


@_compiled
def _encode(a: Any, b: Any, means: Any, stds: Any, xp: Any) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        (center, size), (to, to_size) = _center_and_size(a), _center_and_size(b)
        some = (size > 0) & (to_size > 0) & xp.isfinite(size) & xp.isfinite(to_size)
        some = some.all(axis=-1, keepdims=True)
        one = xp.float32(1)
        size, to_size = xp.where(some, size, one), xp.where(some, to_size, one)
        shift = xp.where(some, (to - center) / size, 0)
        deltas = xp.concatenate([shift, xp.log(to_size / size)], axis=-1)
    if means is not None:
        deltas = deltas - means
    if stds is not None:
        deltas = deltas / stds
    return deltas


def decode(
    boxes: Any,
    deltas: Any,
    *,
    means: Any = None,
    stds: Any = None,
    max_log_size: Any = None,
) -> Any:
    """The boxes that deltas make of boxes: the inverse of `encode`.

    py-faster-rcnn's `bbox_transform_inv` leaves out the `- 1` of the inclusive
    corner, so its boxes come back a pixel wider and higher than they were
    encoded; here `decode(b, encode(b, t))` is `t`.

    Args:
      boxes: [..., 4], any real dtype.
      deltas: [..., 4 * K] = (dx, dy, dw, dh), for each of K classes.
      means: [4] or [K, 4], 0 if `None`; added last.
      stds: [4] or [K, 4], 1 if `None`; the deltas are multiplied by them.
      max_log_size: `dw` and `dh` are at most this, after means and stds, so that
        no `exp` overflows; `MAX_LOG_SIZE` is Detectron's. `None` does not clamp.

    Returns:
      float32 [..., 4 * K]; not clipped to an image.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.data.boxes import decode
      >>> decode([[0, 0, 9, 9]], [[0.5, 0.5, 0, 0, 0, 0, 0, 0]])  # two classes
      array([[ 5.,  5., 14., 14.,  0.,  0.,  9.,  9.]], dtype=float32)
    """
    xp = _namespace(boxes, deltas, means, stds)
    a = _as_boxes("boxes", boxes, xp)
    d = _in_fours("deltas", deltas, xp)
    if means is not None:
        means = _as_boxes("means", means, xp)
    if stds is not None:
        stds = _as_boxes("stds", stds, xp)
    if max_log_size is not None:
        max_log_size = _as_float32("max_log_size", max_log_size, xp)
    return _decode(a, d, means, stds, max_log_size, xp=xp)


@_compiled
def _decode(a: Any, d: Any, means: Any, stds: Any, most: Any, xp: Any) -> Any:
    if stds is not None:
        d = d * stds
    if means is not None:
        d = d + means
    shift, log_size = d[..., :2], d[..., 2:]
    if most is not None:
        log_size = xp.minimum(log_size, most)
    center, size = _center_and_size(a[..., None, :])
    with np.errstate(over="ignore", invalid="ignore"):
        new_size = size * xp.exp(log_size)
        low = center + shift * size - np.float32(0.5) * new_size
        result = xp.concatenate([low, low + new_size - 1], axis=-1)
    return _in_a_row(result)


def clip(boxes: Any, height: Any, width: Any) -> Any:
    """Boxes cut to an image: x to 0 ... width - 1, y to 0 ... height - 1.

    Args:
      boxes: [..., 4 * K], any real dtype.
      height: Rows of the image; a number, or an array that broadcasts against
        the leading axes of `boxes` ([N, 1] for boxes [N, R, 4]).
      width: Columns, likewise.

    Returns:
      float32, of the shape of `boxes`. A box outside becomes a line at the border.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.data.boxes import clip
      >>> clip([[-5, 2, 30, 40]], height=20, width=30)
      array([[ 0.,  2., 29., 19.]], dtype=float32)
    """
    xp = _namespace(boxes, height, width)
    fours = _in_fours("boxes", boxes, xp)
    height = _as_float32("height", height, xp)
    return _clip(fours, height, _as_float32("width", width, xp), xp=xp)


@_compiled
def _clip(fours: Any, height: Any, width: Any, xp: Any) -> Any:
    last = [(width - 1)[..., None], (height - 1)[..., None]]
    x, y = (
        xp.maximum(xp.minimum(fours[..., i::2], last[i][..., None]), np.float32(0))
        for i in (0, 1)
    )
    return _in_a_row(xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1))


def flip(boxes: Any, width: Any) -> Any:
    """Boxes of an image mirrored left to right: x1 and x2 are width - 1 - x.

    Unsigned boxes do not wrap: they become float32 first. Twice is the identity
    for whole pixels; a fraction comes back to within half the distance of
    float32 numbers at `width` (2**-14 pixels at 1000; float32 has more numbers near
    0 than near the right border, so nothing can do better).

    Args:
      boxes: [..., 4 * K], any real dtype.
      width: Columns of the image, as in `clip`.

    Returns:
      float32, of the shape of `boxes`.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data.boxes import flip
      >>> flip(np.array([[0, 3, 4, 8]], np.uint16), width=100)
      array([[95.,  3., 99.,  8.]], dtype=float32)
    """
    xp = _namespace(boxes, width)
    fours = _in_fours("boxes", boxes, xp)
    return _flip(fours, _as_float32("width", width, xp), xp=xp)


@_compiled
def _flip(fours: Any, width: Any, xp: Any) -> Any:
    last = (width - 1)[..., None]
    x1, y1, x2, y2 = (fours[..., i] for i in range(4))
    result = xp.stack([last - x2, y1, last - x1, y2], axis=-1)
    return _in_a_row(result)


# --- Non-maximum suppression -------------------------------------------------


def nms(
    boxes: Any, scores: Any, threshold: Any, max_outputs: int, valid: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Greedy non-maximum suppression, exact, with a fixed number of results.

    The box of the highest score is chosen, all that overlap it by more than
    `threshold` are dropped, and so on. JAX only; works under `jit` and `vmap`.

    Boxes are taken in the order of their scores, a tile at a time: compared with
    all chosen so far, then with each other. Memory is linear in the boxes, not
    their square, and work ends when `max_outputs` are chosen.

    Args:
      boxes: [N, 4], any real dtype. One that is not finite is never chosen; one
        that is inverted overlaps nothing, not even itself.
      scores: [N], any real dtype, read as float32; the lower index goes first
        among equals, and a NaN is never chosen.
      threshold: From 0 to 1, compared in float32: overlap above it is suppressed,
        overlap equal to it is not. May be traced.
      max_outputs: How many to choose at most, M. Static.
      valid: bool [N]; others are never chosen and suppress nothing. `None`: all.

    Returns:
      `(indices, valid)`: int32 [M], the chosen boxes in order of falling score,
      then -1; and bool [M], true for the chosen. Neither has a gradient.

    Raises:
      TypeError, ValueError: An argument has a wrong type, shape or size.

    Speed:
      12000 boxes to 2000 at threshold 0.7 take 11 ms on 2 cores of an AMD EPYC,
      and 0.3 MB beside the arguments; 4 images under `vmap` take 47 ms.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool.data.boxes import nms
      >>> boxes = jnp.array([[0, 0, 9, 9], [1, 0, 10, 9], [20, 0, 29, 9.0]])
      >>> nms(boxes, jnp.array([0.5, 0.9, 0.4]), 0.7, max_outputs=3)
      (Array([ 1,  2, -1], dtype=int32), Array([ True,  True, False], dtype=bool))
    """
    boxes = _as_boxes("boxes", boxes, jnp)
    scores = _as_float32("scores", scores, jnp)
    if boxes.ndim != 2:
        raise ValueError(
            f"boxes must have shape [N, 4], got {boxes.shape}; use jax.vmap for more"
        )
    if scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"scores must have shape {boxes.shape[:1]}, one per box, got {scores.shape}"
        )
    if isinstance(max_outputs, bool) or not isinstance(max_outputs, int | np.integer):
        raise TypeError(f"max_outputs must be a static int, got {max_outputs!r}")
    if max_outputs < 0:
        raise ValueError(f"max_outputs must be at least 0, got {max_outputs}")
    if isinstance(threshold, int | float | np.number) and not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold!r}")
    threshold = _as_float32("threshold", threshold, jnp)
    if threshold.ndim:
        raise ValueError(f"threshold must be one number, got shape {threshold.shape}")
    if valid is None:
        valid = jnp.ones(scores.shape, bool)
    else:
        valid = jnp.asarray(valid)
        if valid.dtype != bool:
            raise TypeError(f"valid must be bool, got dtype {valid.dtype}")
        if valid.shape != scores.shape:
            raise ValueError(
                f"valid must have shape {scores.shape}, one per box, got {valid.shape}"
            )
    return _nms(boxes, scores, threshold, int(max_outputs), valid)


@functools.partial(jax.jit, static_argnums=3)
def _nms(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: jax.Array,
    max_outputs: int,
    valid: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    count = boxes.shape[0]
    if count == 0 or max_outputs == 0:
        return jnp.full(max_outputs, -1, jnp.int32), jnp.zeros(max_outputs, bool)
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    valid = valid & ~jnp.isnan(scores) & jnp.isfinite(boxes).all(axis=-1)
    # Those that may be chosen first, by score; stable, so by index among equals.
    order = jnp.lexsort((-scores, ~valid)).astype(jnp.int32)
    total = valid.sum()
    tile = min(_TILE, count)
    tiles = -(-count // tile)
    order = jnp.pad(order, (0, tiles * tile - count))
    earlier = jnp.arange(tile)[:, None] < jnp.arange(tile)

    def suppressed(by: jax.Array, boxes: jax.Array) -> jax.Array:
        """[T, T]: whether box j overlaps box i of `by` too much."""
        return _iou(by[:, None], boxes[None], jnp) > threshold

    def cond(state: Any) -> Any:
        t, chosen, *_ = state
        return (t * tile < total) & (chosen < max_outputs)

    def body(state: Any) -> Any:
        t, chosen, kept, indices = state
        start = t * tile
        index = jax.lax.dynamic_slice_in_dim(order, start, tile)
        current = boxes[index]
        alive = start + jnp.arange(tile) < total

        def against(i: Any, alive: jax.Array) -> jax.Array:
            by = jax.lax.dynamic_slice_in_dim(kept, i * tile, tile)
            filled = i * tile + jnp.arange(tile) < chosen
            return alive & ~(suppressed(by, current) & filled[:, None]).any(axis=0)

        chunks = (chosen + tile - 1) // tile
        alive = jax.lax.fori_loop(0, chunks, against, alive)

        # Within the tile: a box stays if no earlier one that stays suppresses it.
        # Each round settles at least one more box, so what does not change is
        # the greedy answer.
        conflict = suppressed(current, current) & earlier

        def settle(state: Any) -> Any:
            keep, _ = state
            new = alive & ~(conflict & keep[:, None]).any(axis=0)
            return new, (new != keep).any()

        keep, _ = jax.lax.while_loop(
            lambda state: state[1], settle, (alive, jnp.asarray(True))
        )
        # The kept go to the front of the tile; what stands behind is overwritten.
        front = jnp.argsort(~keep, stable=True)
        kept = jax.lax.dynamic_update_slice_in_dim(kept, current[front], chosen, 0)
        indices = jax.lax.dynamic_update_slice_in_dim(indices, index[front], chosen, 0)
        return t + 1, chosen + keep.sum(dtype=jnp.int32), kept, indices

    # Room for a whole tile behind the last one chosen, in whole tiles.
    room = (-(-max_outputs // tile) + 1) * tile
    zero = jnp.int32(0)
    state = (zero, zero, jnp.zeros((room, 4), jnp.float32), jnp.zeros(room, jnp.int32))
    _, chosen, _, indices = jax.lax.while_loop(cond, body, state)
    some = jnp.arange(max_outputs) < chosen
    return jnp.where(some, indices[:max_outputs], -1), some
