"""Boxes as deltas to other boxes."""

import math
from typing import Any

import numpy as np

from jax_roipool.arguments import check_bool
from jax_roipool.boxes.arrays import (
    HALF,
    ONE,
    ZERO,
    as_boxes,
    as_classes_of_boxes,
    as_real,
    compiled,
    join_classes,
    match_ranks,
    split_classes,
)

MAX_LOG_SIZE = math.log(1000 / 16)
"""The greatest growth of a side that Detectron's decoding allows, as a logarithm."""

# Beyond it `exp` overflows float32.
_MAX_EXP = np.float32(88.72283)


def _optional_boxes(name: str, value: Any) -> Any:
    return None if value is None else as_boxes(name, value)


def _center_and_size(boxes: Any, inclusive: bool) -> tuple[Any, Any]:
    size = boxes[..., 2:] - boxes[..., :2]
    if inclusive:
        size = size + ONE
    return boxes[..., :2] + HALF * size, size


def encode(
    boxes: Any,
    targets: Any,
    *,
    means: Any = None,
    stds: Any = None,
    inclusive: bool = False,
) -> Any:
    """The deltas (dx, dy, dw, dh) that turn boxes into targets.

    R-CNN's parametrisation (Girshick et al. 2014, appendix C): with centers `c`
    and sizes `s`, `dx = (c_target - c) / s` and `dw = log(s_target / s)`.
    torchvision's `BoxCoder(weights)` is `stds = 1 / weights`.

    Args:
      boxes: [..., 4], any real dtype.
      targets: [..., 4]; broadcasts with `boxes`.
      means: [..., 4] to subtract from the deltas, 0 if `None`.
      stds: [..., 4] to divide by afterwards, 1 if `None`.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., 4]. Where a box or its target is inverted, not finite or has a
      side of 0 the deltas are 0, before means and stds: a padded pair makes no
      NaN, and no gradient.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import encode
      >>> encode([[0, 0, 10, 10]], [[5, 0, 15, 20]])
      array([[0.5      , 0.5      , 0.       , 0.6931472]], dtype=float32)
    """
    a, b = as_boxes("boxes", boxes), as_boxes("targets", targets)
    means, stds = _optional_boxes("means", means), _optional_boxes("stds", stds)
    return _encode(a, b, means, stds, inclusive=check_bool("inclusive", inclusive))


@compiled
def _encode(a: Any, b: Any, means: Any, stds: Any, *, inclusive: bool, xp: Any) -> Any:
    a, b, means, stds = match_ranks(a, b, means, stds)
    (center, size), (to, to_size) = (_center_and_size(x, inclusive) for x in (a, b))
    some = (size > 0) & (to_size > 0) & xp.isfinite(size) & xp.isfinite(to_size)
    some = some.all(axis=-1, keepdims=True)
    size, to_size = xp.where(some, size, ONE), xp.where(some, to_size, ONE)
    shift = xp.where(some, to - center, ZERO) / size
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
    inclusive: bool = False,
) -> Any:
    """The boxes that deltas make of boxes: the inverse of `encode`.

    py-faster-rcnn's `bbox_transform_inv` leaves out the `- 1` of the inclusive
    corner, so its boxes come back a pixel wider and higher than they were
    encoded; here `decode(b, encode(b, t))` is `t`, in either convention.

    Args:
      boxes: [..., 4], any real dtype.
      deltas: [..., 4 * K] = (dx, dy, dw, dh), for each of K classes.
      means: [4] or [K, 4], 0 if `None`; added last.
      stds: [4] or [K, 4], 1 if `None`; the deltas are multiplied by them.
      max_log_size: `dw` and `dh` are at most this, after means and stds, so that
        no `exp` overflows; `MAX_LOG_SIZE` is Detectron's and torchvision's.
        `None` does not clamp.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., 4 * K]; not clipped to an image. Corners are infinite where
      sizes overflow, and never NaN where boxes and deltas are finite.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import decode
      >>> decode([[0, 0, 10, 10]], [[0.5, 0.5, 0, 0, 0, 0, 0, 0]])  # two classes
      array([[ 5.,  5., 15., 15.,  0.,  0., 10., 10.]], dtype=float32)
    """
    a, d = as_boxes("boxes", boxes), as_classes_of_boxes("deltas", deltas)
    means, stds = _optional_boxes("means", means), _optional_boxes("stds", stds)
    if max_log_size is not None:
        max_log_size = as_real("max_log_size", max_log_size)
    inclusive = check_bool("inclusive", inclusive)
    return _decode(a, d, means, stds, max_log_size, inclusive=inclusive)


@compiled
def _decode(
    a: Any, d: Any, means: Any, stds: Any, most: Any, *, inclusive: bool, xp: Any
) -> Any:
    a, d, means, stds, most = match_ranks(
        a[..., None, :], split_classes(d), means, stds, most
    )
    if stds is not None:
        d = d * stds
    if means is not None:
        d = d + means
    shift, log_size = d[..., :2], d[..., 2:]
    if most is not None:
        log_size = xp.minimum(log_size, most)
    center, size = _center_and_size(a, inclusive)
    # Selected, and not left to `exp`: its gradient there would be infinite too,
    # and where a later clip stops it 0 times infinity is NaN.
    infinite = xp.isinf(size)  # of finite corners
    size = xp.where(infinite, ZERO, size)
    overflows = infinite | (log_size > _MAX_EXP) & (size > 0)
    grown = size * xp.exp(xp.minimum(log_size, _MAX_EXP))
    new_size = xp.where(overflows, np.float32(np.inf), grown)
    center = center + xp.where(size == 0, ZERO, shift * size)
    low = center - HALF * new_size
    # From the lower corner, so that what was encoded comes back; from the center
    # where that corner is infinite.
    high = xp.where(xp.isinf(low), center + HALF * new_size, low + new_size)
    if inclusive:
        high = high - ONE
    # An infinite box at an infinite place: everywhere.
    everywhere = xp.isinf(new_size)
    low = xp.where(everywhere, np.float32(-np.inf), low)
    high = xp.where(everywhere, np.float32(np.inf), high)
    return join_classes(xp.concatenate([low, high], axis=-1))
