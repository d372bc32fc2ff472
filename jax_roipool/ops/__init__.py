"""The ops, a file each: its public function, its plain JAX, its records.

A new op is a new file here, and a line below, which registers what it has.
"""

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
    "levels",
    "roi_align",
    "roi_average_pool",
    "roi_pool",
    "valid_rois",
]
