"""Boxes in other forms, in an image, mirrored, of a least size."""

from typing import Any

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

_FORMATS = ("xyxy", "xywh", "cxcywh")


def convert(boxes: Any, source: str, target: str, *, inclusive: bool = False) -> Any:
    """Boxes from one format to another.

    "xyxy" is (x1, y1, x2, y2), as everywhere here; "xywh" is COCO's (x1, y1, width,
    height); "cxcywh" is (center x, center y, width, height).

    Args:
      boxes: [..., 4] in the format `source`, any real dtype.
      source: "xyxy", "xywh" or "cxcywh".
      target: Likewise.
      inclusive: Corners are pixels: a width is `x2 - x1 + 1`, not `x2 - x1`.

    Returns:
      float32 [..., 4] in the format `target`.

    Raises:
      TypeError, ValueError: An argument is not real, has the wrong shape, or names
        no format.

    Example:
      >>> from jax_roipool.boxes import convert
      >>> convert([[2, 3, 10, 20]], "xywh", "xyxy")
      array([[ 2.,  3., 12., 23.]], dtype=float32)
      >>> convert([[2, 3, 12, 23]], "xyxy", "cxcywh")
      array([[ 7., 13., 10., 20.]], dtype=float32)
    """
    for name, value in (("source", source), ("target", target)):
        if not isinstance(value, str) or value not in _FORMATS:
            raise ValueError(f"{name} must be one of {_FORMATS}, got {value!r}")
    boxes = as_boxes("boxes", boxes)
    inclusive = check_bool("inclusive", inclusive)
    return _convert(boxes, source=source, target=target, inclusive=inclusive)


@compiled
def _convert(boxes: Any, *, source: str, target: str, inclusive: bool, xp: Any) -> Any:
    if source == target:
        return boxes
    place, rest = boxes[..., :2], boxes[..., 2:]
    unit = ONE if inclusive else ZERO
    if source == "xyxy":
        low, size = place, rest - place + unit
    else:
        low, size = place, rest
        if source == "cxcywh":
            low = place - HALF * size
    if target == "xyxy":
        return xp.concatenate([low, low + size - unit], axis=-1)
    if target == "cxcywh":
        low = low + HALF * size
    return xp.concatenate([low, size], axis=-1)


def clip(boxes: Any, height: Any, width: Any, *, inclusive: bool = False) -> Any:
    """Boxes cut to an image: x to 0 ... width, y to 0 ... height.

    Args:
      boxes: [..., 4 * K], any real dtype.
      height: Rows of the image; a number, or an array that broadcasts against
        the leading axes of `boxes` ([N, 1] for boxes [N, R, 4]).
      width: Columns, likewise.
      inclusive: Corners are pixels: the last are `width - 1` and `height - 1`.

    Returns:
      float32, of the shape of `boxes`. A box outside becomes a line at the border.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import clip
      >>> clip([[-5, 2, 40, 30]], height=20, width=30)
      array([[ 0.,  2., 30., 20.]], dtype=float32)
    """
    boxes = as_classes_of_boxes("boxes", boxes)
    height, width = as_real("height", height), as_real("width", width)
    return _clip(boxes, height, width, inclusive=check_bool("inclusive", inclusive))


@compiled
def _clip(boxes: Any, height: Any, width: Any, *, inclusive: bool, xp: Any) -> Any:
    fours, height, width = match_ranks(
        split_classes(boxes), height[..., None, None], width[..., None, None]
    )
    height, width = xp.broadcast_arrays(height, width)
    last = xp.concatenate([width, height], axis=-1)
    if inclusive:
        last = last - ONE
    last = xp.concatenate([last, last], axis=-1)
    # Selections, whose gradient at the border is 1 and not a half.
    cut = xp.where(fours > last, last, fours)
    return join_classes(xp.where(cut < 0, ZERO, cut))


def flip(boxes: Any, width: Any, *, inclusive: bool = False) -> Any:
    """Boxes of an image mirrored left to right: x1 and x2 become width - x.

    Unsigned boxes do not wrap: they become float32 first. Twice is the identity
    for whole pixels; a fraction comes back to within half the distance of
    float32 numbers at `width` (2**-14 pixels at 1000; float32 has more numbers near
    0 than near the right border, so nothing can do better).

    Args:
      boxes: [..., 4 * K], any real dtype.
      width: Columns of the image, as in `clip`.
      inclusive: Corners are pixels, which become `width - 1 - x`.

    Returns:
      float32, of the shape of `boxes`.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.boxes import flip
      >>> flip(np.array([[0, 3, 4, 8]], np.uint16), width=100)
      array([[ 96.,   3., 100.,   8.]], dtype=float32)
    """
    boxes, width = as_classes_of_boxes("boxes", boxes), as_real("width", width)
    return _flip(boxes, width, inclusive=check_bool("inclusive", inclusive))


@compiled
def _flip(boxes: Any, width: Any, *, inclusive: bool, xp: Any) -> Any:
    fours, width = match_ranks(split_classes(boxes), width[..., None, None])
    last = (width - ONE if inclusive else width)[..., 0]
    x1, y1, x2, y2 = (fours[..., i] for i in range(4))
    return join_classes(xp.stack([last - x2, y1, last - x1, y2], axis=-1))


def remove_small(boxes: Any, min_size: Any, *, inclusive: bool = False) -> Any:
    """Which boxes stay when those with a side below `min_size` go.

    A mask, for the `valid` of `nms` and of the ops: shapes stay what they are.

    Args:
      boxes: [..., 4], any real dtype.
      min_size: The least width and height of a box that stays; a number.
      inclusive: A side is `x2 - x1 + 1`, counted in pixels, and not `x2 - x1`.

    Returns:
      bool [...]; false for an inverted box, and for one with a NaN.

    Raises:
      TypeError, ValueError: An argument is not real or has the wrong shape.

    Example:
      >>> from jax_roipool.boxes import remove_small
      >>> remove_small([[0, 0, 8, 8], [0, 0, 8, 1]], min_size=2)
      array([ True, False])
    """
    boxes, least = as_boxes("boxes", boxes), as_real("min_size", min_size)
    if least.ndim:
        raise ValueError(f"min_size must be one number, got shape {least.shape}")
    return _remove_small(boxes, least, inclusive=check_bool("inclusive", inclusive))


@compiled
def _remove_small(boxes: Any, least: Any, *, inclusive: bool, xp: Any) -> Any:
    boxes, least = match_ranks(boxes, least)
    sides = boxes[..., 2:] - boxes[..., :2]
    if inclusive:
        sides = sides + ONE
    return ((sides >= least) & (sides >= 0)).all(axis=-1)
