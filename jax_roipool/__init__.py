"""RoI max pooling for JAX: a primitive with compiled kernels.

>>> import jax.numpy as jnp
>>> import jax_roipool
>>> features = jnp.ones((2, 38, 63, 512))             # two images, NHWC
>>> rois = jnp.array([[1, 16.0, 16.0, 240.0, 320.0]])  # in image 1, in pixels
>>> jax_roipool.roi_pool(features, rois, 7, spatial_scale=1 / 16).shape
(1, 7, 7, 512)

`jax_roipool.linen` and `jax_roipool.nnx` hold Flax modules and need flax.
"""

from jax_roipool import _interpreter as _interpreter  # before jax
from jax_roipool.lowering import export_disabled_checks as export_disabled_checks
from jax_roipool.ops import roi_pool as roi_pool
from jax_roipool.ops import roi_pool_with_argmax as roi_pool_with_argmax
from jax_roipool.ops import valid_rois as valid_rois

__version__ = "0.1.0"
