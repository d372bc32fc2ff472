"""Region-of-interest ops for JAX: primitives with compiled kernels.

>>> import jax.numpy as jnp
>>> import jax_roipool
>>> features = jnp.ones((2, 38, 63, 512))             # two images, NHWC
>>> rois = jnp.array([[1, 16.0, 16.0, 240.0, 320.0]])  # in image 1, in pixels
>>> jax_roipool.roi_pool(features, rois, 7, spatial_scale=1 / 16).shape
(1, 7, 7, 512)

`jax_roipool.boxes` has overlaps, deltas and non-maximum suppression of boxes,
`jax_roipool.masks` pastes masks into images and reads features at points,
`jax_roipool.linen` and `jax_roipool.nnx` the ops as Flax modules, `jax_roipool.data`
the data layer of Fast R-CNN.
"""

from jax_roipool import _interpreter as _interpreter  # before jax
from jax_roipool import _source_tree as _source_tree  # before other modules
from jax_roipool import backends
from jax_roipool.debugging import check_inputs
from jax_roipool.lowering import export_disabled_checks
from jax_roipool.ops.levels import fpn_levels
from jax_roipool.ops.roi_align import roi_align
from jax_roipool.ops.roi_average_pool import roi_average_pool
from jax_roipool.ops.roi_pool import roi_pool, roi_pool_with_argmax
from jax_roipool.ops.valid_rois import valid_rois

__version__ = "0.1.0"
__all__ = [
    "check_inputs",
    "export_disabled_checks",
    "fpn_levels",
    "roi_align",
    "roi_average_pool",
    "roi_pool",
    "roi_pool_with_argmax",
    "valid_rois",
]

backends.start()
