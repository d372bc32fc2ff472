"""Boxes: overlap, deltas, clipping, flipping, non-maximum suppression.

A box is `(x1, y1, x2, y2)` in pixels. Every function that measures a side takes
`inclusive`: `False`, the default, is the convention of detectors since 2018 and of
torchvision, where a side is `x2 - x1`; `True` is that of Fast R-CNN and of
`jax_roipool.data`, where corners are pixels and a side is `x2 - x1 + 1`.

NumPy arrays in, NumPy arrays out: JAX then computes nothing but `nms` and
`soft_nms`. Where any argument is a JAX array the results are too, and the function
works under `jit`, `vmap`, `grad` and `shard_map`. Boxes of any real dtype are read
as float32, and results are float32.

>>> from jax_roipool import boxes
>>> boxes.iou([[0, 0, 10, 10]], [[0, 0, 10, 5], [5, 0, 15, 10]])
array([[0.5       , 0.33333334]], dtype=float32)
"""

from jax_roipool.boxes.coding import MAX_LOG_SIZE, decode, encode
from jax_roipool.boxes.editing import clip, convert, flip, remove_small
from jax_roipool.boxes.overlaps import (
    areas,
    complete_iou,
    distance_iou,
    generalized_iou,
    iou,
)
from jax_roipool.boxes.suppression import nms, soft_nms

__all__ = [
    "MAX_LOG_SIZE",
    "areas",
    "clip",
    "complete_iou",
    "convert",
    "decode",
    "distance_iou",
    "encode",
    "flip",
    "generalized_iou",
    "iou",
    "nms",
    "remove_small",
    "soft_nms",
]
