"""Areas and overlaps.

A masked value has a masked gradient: what does not count is made harmless before
it is computed with, so that nothing of it flows back.
"""

from typing import Any

import jax
import numpy as np

from jax_roipool.arguments import check_bool
from jax_roipool.boxes.arrays import (
    HALF,
    ONE,
    ZERO,
    as_boxes,
    compiled,
    match_ranks,
)

# Sides whose products overflow float32 are made shorter by this, which is exact.
_SHORTER = np.float32(2.0**-66)
_LONG = np.float32(2.0**60)

# A box as its four columns, and its two sides.
_Columns = tuple[Any, Any, Any, Any]
_Pair = tuple[Any, Any]


def _columns(boxes: Any) -> _Columns:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _sides(box: _Columns, pixel: _Pair | None) -> _Pair:
    """Width and height; with the sides of a pixel where corners are inclusive."""
    x1, y1, x2, y2 = box
    if pixel is None:
        return x2 - x1, y2 - y1
    return x2 - x1 + pixel[0], y2 - y1 + pixel[1]


def _pixel(inclusive: bool) -> _Pair | None:
    return (ONE, ONE) if inclusive else None


def _area(sides: _Pair, xp: Any) -> Any:
    """Width times height, and 0 where either is not above 0.

    The selection also keeps compilers from fusing the product with a sum into
    one rounding, so NumPy and XLA on CPU give the same bits.
    """
    width, height = sides
    some = (width > 0) & (height > 0)
    if xp is not np:  # for the gradient
        width, height = xp.where(some, width, ZERO), xp.where(some, height, ZERO)
    return xp.where(some, width * height, ZERO)


@jax.custom_jvp
def _quotient(part: Any, whole: Any) -> Any:
    return part / whole


@_quotient.defjvp
def _quotient_jvp(primals: Any, tangents: Any) -> Any:
    # JAX's own has the square of `whole`, out of range long before this is.
    quotient = _quotient(*primals)
    return quotient, (tangents[0] - quotient * tangents[1]) / primals[1]


def _ratio(part: Any, whole: Any, xp: Any) -> Any:
    """`part / whole`, and 0 where there is no whole."""
    some = whole > 0
    whole = xp.where(some, whole, ONE)
    return xp.where(some, part / whole if xp is np else _quotient(part, whole), ZERO)


def _intersection(a: _Columns, b: _Columns, xp: Any) -> _Columns:
    return (
        xp.maximum(a[0], b[0]),
        xp.maximum(a[1], b[1]),
        xp.minimum(a[2], b[2]),
        xp.minimum(a[3], b[3]),
    )


def _hull(a: _Columns, b: _Columns, xp: Any) -> _Columns:
    return (
        xp.minimum(a[0], b[0]),
        xp.minimum(a[1], b[1]),
        xp.maximum(a[2], b[2]),
        xp.maximum(a[3], b[3]),
    )


def _without_overflow(
    a: _Columns, b: _Columns, pixel: _Pair | None, hull: bool, xp: Any
) -> tuple[_Columns, _Columns, _Pair | None]:
    """Boxes and pixel, with long sides made shorter where areas overflow.

    Along each axis, for each pair; the ratio of two areas stays what it was.
    """
    sides = [_sides(a, pixel), _sides(b, pixel)]
    overflows = ~(_area(sides[0], xp) + _area(sides[1], xp) < np.inf)
    if hull:
        sides.append(_sides(_hull(a, b, xp), pixel))
        overflows = overflows | ~(_area(sides[2], xp) < np.inf)
    if xp is np and not overflows.any():
        return a, b, pixel
    scale = []
    for lengths in zip(*sides, strict=True):
        longest = xp.maximum(lengths[0], lengths[1]) if not hull else lengths[2]
        scale.append(xp.where(overflows & (longest > _LONG), _SHORTER, ONE))
    x, y = scale
    a = (a[0] * x, a[1] * y, a[2] * x, a[3] * y)
    b = (b[0] * x, b[1] * y, b[2] * x, b[3] * y)
    return a, b, pixel and (x, y)


def _are_boxes(boxes: Any, inclusive: bool, xp: Any) -> Any:
    """Which are finite and not inverted."""
    width, height = _sides(_columns(boxes), _pixel(inclusive))
    return xp.isfinite(boxes).all(axis=-1) & (width >= 0) & (height >= 0)


def pair_overlaps(a: Any, b: Any, *, inclusive: bool, xp: Any) -> Any:
    """IoU of float32 boxes [..., 4] that broadcast, which `iou` documents."""
    return _with_hull(a, b, inclusive, xp, hull=False)[1]


def _with_hull(
    a: Any, b: Any, inclusive: bool, xp: Any, hull: bool = True
) -> tuple[Any, Any, Any, _Columns, _Columns, _Pair | None]:
    """Which pairs are of boxes, IoU, union; and the boxes to measure further."""
    some_a, some_b = _are_boxes(a, inclusive, xp), _are_boxes(b, inclusive, xp)
    box_a = _columns(xp.where(some_a[..., None], a, ZERO))
    box_b = _columns(xp.where(some_b[..., None], b, ZERO))
    pixel = _pixel(inclusive)
    box_a, box_b, pixel = _without_overflow(box_a, box_b, pixel, hull, xp)
    shared = _area(_sides(_intersection(box_a, box_b, xp), pixel), xp)
    both = _area(_sides(box_a, pixel), xp) + _area(_sides(box_b, pixel), xp)
    union = both - shared
    some = some_a & some_b
    overlap = xp.where(some, _ratio(shared, union, xp), ZERO)
    return some, overlap, union, box_a, box_b, pixel


@compiled
def _areas(boxes: Any, *, inclusive: bool, xp: Any) -> Any:
    return _area(_sides(_columns(boxes), _pixel(inclusive)), xp)


def areas(boxes: Any, *, inclusive: bool = False) -> Any:
    """The area of each box, `(x2 - x1) * (y2 - y1)`.

    Args:
      boxes: [..., 4], any real dtype.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [...]. An inverted box, and one with a NaN, has area 0.

    Raises:
      TypeError, ValueError: `boxes` is not real or has no last axis of 4.

    Example:
      >>> from jax_roipool.boxes import areas
      >>> areas([[0, 0, 16, 10], [5, 5, 5, 5], [8, 0, 2, 9]])
      array([160.,   0.,   0.], dtype=float32)
      >>> areas([[0, 0, 15, 9], [5, 5, 5, 5]], inclusive=True)
      array([160.,   1.], dtype=float32)
    """
    return _areas(
        as_boxes("boxes", boxes), inclusive=check_bool("inclusive", inclusive)
    )


# --- All pairs ---------------------------------------------------------------


def _all_pairs(function: Any) -> Any:
    """Of float32 boxes that broadcast: a function of all pairs, checked."""

    @compiled
    def run(a: Any, b: Any, *, inclusive: bool, xp: Any) -> Any:
        a, b = match_ranks(a[..., :, None, :], b[..., None, :, :])
        return function(a, b, inclusive=inclusive, xp=xp)

    def call(boxes: Any, others: Any, inclusive: Any) -> Any:
        a = as_boxes("boxes", boxes, least_ndim=2)
        b = as_boxes("others", others, least_ndim=2)
        return run(a, b, inclusive=check_bool("inclusive", inclusive))

    return call


_iou = _all_pairs(pair_overlaps)


def iou(boxes: Any, others: Any, *, inclusive: bool = False) -> Any:
    """Intersection over union of every box with every other (Jaccard overlap).

    Args:
      boxes: [..., N, 4], any real dtype.
      others: [..., M, 4]; leading axes broadcast.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., N, M], from 0 to 1, never NaN: a box that is inverted or not
      finite overlaps nothing. In float32, `shared / (area + area - shared)`, with
      the same bits from NumPy and from XLA on CPU; where areas overflow, sides
      are first made shorter by a power of two.

    Gradient:
      Finite wherever boxes are. A pair that overlaps nothing gets and gives 0,
      one that is padded with NaN too.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import iou
      >>> iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10]])
      array([[1.        , 0.5       , 0.33333334]], dtype=float32)
    """
    return _iou(boxes, others, inclusive)


@_all_pairs
def _generalized_iou(a: Any, b: Any, *, inclusive: bool, xp: Any) -> Any:
    some, overlap, union, a, b, pixel = _with_hull(a, b, inclusive, xp)
    hull = _area(_sides(_hull(a, b, xp), pixel), xp)
    return xp.where(some, overlap - _ratio(hull - union, hull, xp), -ONE)


def generalized_iou(boxes: Any, others: Any, *, inclusive: bool = False) -> Any:
    """IoU less the share of the smallest enclosing box that neither covers.

    Rezatofighi et al. 2019: unlike IoU it tells boxes that are near from boxes
    that are far, and so has a gradient where they do not overlap.

    Args:
      boxes: [..., N, 4], any real dtype.
      others: [..., M, 4]; leading axes broadcast.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., N, M], from -1 to 1, never NaN. A box that is inverted or not
      finite is as far from all others as can be: -1, with no gradient. Bits and
      overflow as in `iou`.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import generalized_iou
      >>> generalized_iou([[0, 0, 10, 10]], [[0, 0, 10, 5], [10, 0, 30, 10]])
      array([[0.5, 0. ]], dtype=float32)
      >>> generalized_iou([[0, 0, 10, 10]], [[30, 0, 40, 10]])
      array([[-0.5]], dtype=float32)
    """
    return _generalized_iou(boxes, others, inclusive)


def _distance(a: _Columns, b: _Columns, pixel: _Pair | None, xp: Any) -> Any:
    """Squared distance of centers by squared diagonal of the hull.

    In lengths of the hull's longer side: no square is out of range.
    """
    width, height = _sides(_hull(a, b, xp), pixel)
    longest = xp.maximum(width, height)

    def square(length: Any) -> Any:
        relative = _ratio(xp.abs(length), longest, xp)
        return _area((relative, relative), xp)

    # Differences first, so that no sum of corners overflows.
    dx = HALF * (a[0] - b[0]) + HALF * (a[2] - b[2])
    dy = HALF * (a[1] - b[1]) + HALF * (a[3] - b[3])
    return _ratio(square(dx) + square(dy), square(width) + square(height), xp)


@_all_pairs
def _distance_iou(a: Any, b: Any, *, inclusive: bool, xp: Any) -> Any:
    some, overlap, _, a, b, pixel = _with_hull(a, b, inclusive, xp)
    return xp.where(some, overlap - _distance(a, b, pixel, xp), -ONE)


def distance_iou(boxes: Any, others: Any, *, inclusive: bool = False) -> Any:
    """IoU less the squared distance of centers, by the enclosing box's diagonal.

    Zheng et al. 2020.

    Args:
      boxes: [..., N, 4], any real dtype.
      others: [..., M, 4]; leading axes broadcast.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., N, M], from -1 to 1, never NaN. A box that is inverted or not
      finite is as far from all others as can be: -1, with no gradient.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import distance_iou
      >>> distance_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [10, 0, 20, 10]])
      array([[ 1. , -0.2]], dtype=float32)
    """
    return _distance_iou(boxes, others, inclusive)


def _angle(box: _Columns, pixel: _Pair | None, xp: Any) -> Any:
    """Of the diagonal; 0 for a point."""
    width, height = _sides(box, pixel)
    longest = xp.maximum(width, height)
    some = longest > 0
    width, height = _ratio(width, longest, xp), _ratio(height, longest, xp)
    return xp.where(some, xp.arctan2(width, xp.where(some, height, ONE)), ZERO)


@_all_pairs
def _complete_iou(a: Any, b: Any, *, inclusive: bool, xp: Any) -> Any:
    some, overlap, _, scaled_a, scaled_b, scale = _with_hull(a, b, inclusive, xp)
    distance = _distance(scaled_a, scaled_b, scale, xp)
    # An angle is not what it was where one axis alone became shorter: from the
    # boxes as they came, by halves, whose differences do not overflow.
    pixel = (HALF, HALF) if inclusive else None
    angles = []
    for box in (a, b):
        good = _are_boxes(box, inclusive, xp)[..., None]
        halves = _columns(xp.where(good, box, ZERO) * HALF)
        angles.append(_angle(halves, pixel, xp))
    aspect = np.float32(4 / np.pi**2) * xp.square(angles[0] - angles[1])
    weight = _ratio(aspect, ONE - overlap + aspect, xp)
    if xp is not np:
        weight = jax.lax.stop_gradient(weight)
    return xp.where(some, overlap - distance - weight * aspect, -ONE)


def complete_iou(boxes: Any, others: Any, *, inclusive: bool = False) -> Any:
    """`distance_iou` less a term for unlike aspect ratios (Zheng et al. 2020).

    Args:
      boxes: [..., N, 4], any real dtype.
      others: [..., M, 4]; leading axes broadcast.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      float32 [..., N, M], at most 1, never NaN. A box that is inverted or not
      finite gives -1, with no gradient. The weight of the aspect term takes no
      gradient, as in the paper.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import complete_iou
      >>> complete_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [10, 0, 20, 10]])
      array([[ 1. , -0.2]], dtype=float32)
    """
    return _complete_iou(boxes, others, inclusive)
