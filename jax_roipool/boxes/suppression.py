"""Non-maximum suppression, exact, with a fixed number of results."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import partitioning
from jax_roipool.arguments import check_bool, check_int, refuse_mask
from jax_roipool.boxes.arrays import as_boxes, as_real, namespace
from jax_roipool.boxes.greedy import NMS, class_keys, order_keys
from jax_roipool.boxes.overlaps import pair_overlaps

# Of boxes, scores, classes and valid, as `Op.factors` names them: whole.
_FACTORS = (("b", "b4"), ("b",), ("b",), ("b",))


def nms(
    boxes: Any,
    scores: Any,
    iou_threshold: Any,
    max_outputs: int,
    *,
    classes: Any = None,
    score_threshold: Any = None,
    valid: Any = None,
    inclusive: bool = False,
) -> tuple[Any, Any]:
    """Greedy non-maximum suppression, exact, with a fixed number of results.

    The box of the highest score is chosen, all of its class that overlap it by
    more than `iou_threshold` are dropped, and so on. Works under `jit`, `vmap` and
    `shard_map`.

    Boxes are taken in the order of their scores and compared with those chosen so
    far. Memory is linear in the boxes, not their square, and work ends when
    `max_outputs` are chosen. On CPU and CUDA a compiled kernel does it, and under
    `vmap` one call of it does all images.

    Args:
      boxes: [N, 4], any real dtype. One that is not finite is never chosen; one
        that is inverted overlaps nothing, not even itself.
      scores: [N], any real dtype, read as float32; the lower index goes first
        among equals. A NaN is never chosen; -inf is a score like others.
      iou_threshold: From 0 to 1: overlap above it is suppressed, overlap equal to
        it is not. Overlap is a float32; a Python number or np.float64 is rounded
        down to one, which gives what comparing in double gives, as torchvision
        does. May be traced.
      max_outputs: How many to choose at most, M. Static.
      classes: int [N]: boxes suppress those of their own class alone. `None`: all
        are of one class.
      score_threshold: Boxes of a lower score are never chosen and suppress nothing.
        Rounded as `iou_threshold`. `None`: all may be.
      valid: bool [N]; others are never chosen and suppress nothing. `None`: all.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      `(indices, valid)`: int32 [M], the chosen boxes in order of falling score
      over all classes, then -1; and bool [M], true for the chosen. Neither has a
      gradient.

    Raises:
      TypeError, ValueError: An argument has a wrong type, shape or size; a
        threshold is NaN.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.boxes import nms
      >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10.0]])
      >>> nms(boxes, np.array([0.5, 0.9, 0.4]), 0.7, max_outputs=3)
      (array([ 1,  2, -1], dtype=int32), array([ True,  True, False]))
      >>> nms(boxes, np.array([0.5, 0.9, 0.4]), 0.7, 3, classes=np.array([1, 2, 2]))
      (array([1, 0, 2], dtype=int32), array([ True,  True,  True]))
    """
    threshold = _threshold("iou_threshold", iou_threshold)
    if not isinstance(threshold, jax.Array) and not 0 <= threshold <= 1:
        raise ValueError(f"iou_threshold must be from 0 to 1, got {iou_threshold!r}")
    least = None
    if score_threshold is not None:
        least = _threshold("score_threshold", score_threshold)
    call = functools.partial(
        _nms,
        max_outputs=check_int("max_outputs", max_outputs, 0),
        inclusive=check_bool("inclusive", inclusive),
    )
    arrays = _check_candidates(boxes, scores, classes, valid)
    return _run(call, *arrays, threshold, least)


def soft_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: Any,
    max_outputs: int,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    sigma: float = 0.5,
    min_score: float = 0.001,
    classes: Any = None,
    valid: Any = None,
    inclusive: bool = False,
) -> tuple[Any, Any, Any]:
    """Non-maximum suppression that lowers scores instead (Bodla et al. 2017).

    The box of the highest score is chosen, the scores of all of its class that are
    left fall by how much they overlap it, and so on, until none is left or none
    has `min_score`. Takes a pass over the boxes for each that is chosen.

    Args:
      boxes: [N, 4], as in `nms`.
      scores: [N], as in `nms`; usually from 0 to 1.
      iou_threshold: The least overlap that lowers a score in the linear method;
        the Gaussian one does not look at it. As in `nms`.
      max_outputs: How many to choose at most, M. Static.
      method: "linear": scores fall by the factor `1 - iou` from `iou_threshold`
        on. "gaussian": by `exp(-iou**2 / sigma)`.
      sigma: Of the Gaussian method; a number above 0. Static.
      min_score: The least score, after it fell, of a box that is chosen. Rounded
        down to float32. Static.
      classes: int [N], as in `nms`.
      valid: bool [N], as in `nms`.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      `(indices, scores, valid)`: int32 [M], the chosen in order, then -1; float32
      [M], the scores that they were chosen with, then 0; and bool [M], true for
      the chosen. None has a gradient.

    Raises:
      TypeError, ValueError: An argument has a wrong type, shape or size.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.boxes import soft_nms
      >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10.0]])
      >>> index, score, valid = soft_nms(boxes, np.array([0.9, 0.8, 0.5]), 0.3, 3)
      >>> index, score
      (array([0, 2, 1], dtype=int32), array([0.9, 0.5, 0.4], dtype=float32))
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f'method must be "linear" or "gaussian", got {method!r}')
    threshold = _threshold("iou_threshold", iou_threshold)
    least = _threshold("min_score", min_score)
    width = _threshold("sigma", sigma)
    if isinstance(width, jax.Array) or not 0 < width < math.inf:
        raise ValueError(f"sigma must be a finite number above 0, got {sigma!r}")
    call = functools.partial(
        _soft_nms,
        max_outputs=check_int("max_outputs", max_outputs, 0),
        sigma=float(width) if method == "gaussian" else None,
        inclusive=check_bool("inclusive", inclusive),
    )
    arrays = _check_candidates(boxes, scores, classes, valid)
    return _run(call, *arrays, threshold, least)


# --- Checks ------------------------------------------------------------------


def _threshold(name: str, value: Any) -> Any:
    """A static number as np.float32, rounded down; a JAX array as it is."""
    if isinstance(value, jax.Array):
        if value.ndim:
            raise ValueError(f"{name} must be one number, got shape {value.shape}")
        return as_real(name, value)
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"{name} must be one number, got shape {array.shape}")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = float(array)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    if float(rounded) > number:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return rounded


def _check_candidates(boxes: Any, scores: Any, classes: Any, valid: Any) -> Any:
    """The arrays that have one entry per box; classes as int32."""
    boxes, scores = as_boxes("boxes", boxes), as_real("scores", scores)
    if boxes.ndim != 2:
        raise ValueError(
            f"boxes must have shape [N, 4], got {boxes.shape}; use jax.vmap for more"
        )
    arrays = [boxes, scores]
    for name, value, kinds in (("classes", classes, "iu"), ("valid", valid, "b")):
        if value is not None and not isinstance(value, jax.Array):
            refuse_mask(name, value)
            value = np.asarray(value)
        if value is not None and value.dtype.kind not in kinds:
            wanted = "bool" if kinds == "b" else "ints"
            raise TypeError(f"{name} must be {wanted}, got dtype {value.dtype}")
        arrays.append(value)
    names = ("boxes", "scores", "classes", "valid")
    for name, array in zip(names, arrays, strict=True):
        if array is not None and array.shape != boxes.shape[: 2 - (name != "boxes")]:
            raise ValueError(
                f"{name} must have shape {boxes.shape[:1]}, one per box, got "
                f"{array.shape}"
            )
    if isinstance(arrays[2], np.ndarray) and arrays[2].dtype.itemsize > 2:
        # Equal stays equal, and JAX without 64-bit types wraps nothing around.
        narrow = arrays[2].astype(np.int32)
        if not np.array_equal(narrow, arrays[2]):
            narrow = np.unique(arrays[2], return_inverse=True)[1].astype(np.int32)
        arrays[2] = narrow
    return arrays


def _run(call: Callable[..., Any], *arrays: Any) -> Any:
    """The call, in the namespace of its arrays."""
    if namespace(*arrays) is jnp:
        return call(*arrays)
    with jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, call(*arrays))


# --- What is computed --------------------------------------------------------


def _candidates(
    boxes: jax.Array, scores: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """float32 boxes and scores, and which may be chosen."""
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    boxes, scores = boxes.astype(jnp.float32), scores.astype(jnp.float32)
    some = ~jnp.isnan(scores) & jnp.isfinite(boxes).all(axis=-1)
    return boxes, scores, some if valid is None else some & valid


def _round_down(threshold: jax.Array) -> jax.Array:
    """A threshold of any dtype as float32: no float32 lies between the two."""
    threshold = jax.lax.stop_gradient(threshold)
    rounded = threshold.astype(jnp.float32)
    if threshold.dtype != jnp.float64:
        return rounded
    up = rounded.astype(jnp.float64) > threshold
    return jnp.where(up, jnp.nextafter(rounded, -jnp.float32(jnp.inf)), rounded)


@functools.partial(jax.jit, static_argnames=("max_outputs", "inclusive"))
def _nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array | None,
    valid: jax.Array | None,
    threshold: jax.Array,
    least: jax.Array | None,
    *,
    max_outputs: int,
    inclusive: bool,
) -> tuple[jax.Array, jax.Array]:
    arrays = (boxes, scores, classes, valid)
    boxes, scores, classes, valid = partitioning.reshard(arrays, _FACTORS)
    boxes, scores, some = _candidates(boxes, scores, valid)
    if least is not None:
        common = jnp.promote_types(least.dtype, jnp.float32)
        some &= scores.astype(common) >= jax.lax.stop_gradient(least).astype(common)
    keys = order_keys(scores, some)
    operands = partitioning.match_varying_axes(
        boxes, keys, class_keys(classes, keys), _round_down(threshold)
    )
    indices = NMS.bind(*operands, max_outputs=(max_outputs,), inclusive=inclusive)
    return indices, indices >= 0


@functools.partial(jax.jit, static_argnames=("max_outputs", "sigma", "inclusive"))
def _soft_nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array | None,
    valid: jax.Array | None,
    threshold: jax.Array,
    least: jax.Array,
    *,
    max_outputs: int,
    sigma: float | None,
    inclusive: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    count = boxes.shape[0]
    indices, found = jnp.full(max_outputs, -1, jnp.int32), jnp.zeros(max_outputs)
    found = found.astype(jnp.float32)
    if count == 0 or max_outputs == 0:
        return indices, found, jnp.zeros(max_outputs, bool)
    boxes, scores, left = _candidates(boxes, scores, valid)
    threshold, least = jax.lax.stop_gradient((threshold, least))
    classes = jnp.zeros(count, jnp.int32) if classes is None else classes
    boxes, classes, threshold, least, *state = partitioning.match_varying_axes(
        boxes, classes, threshold, least, indices, found, scores, left
    )

    def choose(i: Any, state: Any) -> Any:
        indices, found, scores, left = state
        # The greatest, -inf among them; the first among equals.
        masked = jnp.where(left, scores, -jnp.inf)
        best = jnp.argmax(left & (masked == masked.max()))
        some = left[best] & (scores[best].astype(least.dtype) >= least)
        indices = indices.at[i].set(jnp.where(some, best, -1).astype(jnp.int32))
        found = found.at[i].set(jnp.where(some, scores[best], 0))
        overlap = pair_overlaps(boxes[best][None], boxes, inclusive=inclusive, xp=jnp)
        if sigma is None:
            fall = jnp.where(overlap.astype(threshold.dtype) >= threshold, overlap, 0)
            factor = 1 - fall
        else:
            factor = jnp.exp(-(overlap**2) / sigma)
        factor = jnp.where(classes == classes[best], factor, 1)
        # An overlap of 0 leaves a score as it is, an infinite one too.
        scores = jnp.where(factor == 1, scores, scores * factor)
        left = left & some & (jnp.arange(count) != best)
        return indices, found, scores, left & ~jnp.isnan(scores)

    indices, found, *_ = jax.lax.fori_loop(0, max_outputs, choose, tuple(state))
    return indices, found, indices >= 0
