"""The ops, a file each: its public function, its plain JAX, its records.

A new op is a new file here, and a line below, which registers what it has. That of
`nms` stands beside the other functions of boxes.
"""

from jax_roipool.boxes import greedy
from jax_roipool.ops import (
    argmax,
    levels,
    roi_align,
    roi_average_pool,
    roi_pool,
    valid_rois,
)

__all__ = [
    "argmax",
    "greedy",
    "levels",
    "roi_align",
    "roi_average_pool",
    "roi_pool",
    "valid_rois",
]
