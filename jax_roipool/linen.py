"""RoI pooling as a Flax Linen module. Needs flax."""

from typing import Any

from flax import linen as nn
from jax import Array

from jax_roipool import ops
from jax_roipool.arguments import Layout


class RoIPool(nn.Module):
    """`jax_roipool.roi_pool` with its static arguments as fields.

    The module of Fast R-CNN code, `RoIPool(pooled_height, pooled_width,
    spatial_scale)(features, rois)`; it has no parameters.

    Attributes:
      output_size: Bins per RoI, `(PH, PW)` or one number for both.
      spatial_scale: Cells of the feature map per pixel of the image, a number
        or `(scale_h, scale_w)`.
      layout: "NHWC" or "NCHW".
      forward_mode: Allows `jvp`, `jacfwd` and `linearize`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax_roipool.linen import RoIPool
      >>> pool = RoIPool((7, 7), spatial_scale=1 / 16)
      >>> features = jnp.ones((1, 38, 63, 8))
      >>> rois = jnp.array([[0, 16.0, 16.0, 240.0, 320.0]])
      >>> pool.apply({}, features, rois).shape
      (1, 7, 7, 8)
    """

    output_size: int | tuple[int, int]
    spatial_scale: float | tuple[float, float] = 1.0
    layout: Layout = "NHWC"
    forward_mode: bool = False

    def __call__(self, features: Any, rois: Any, *, valid: Any = None) -> Array:
        """Pools; see `jax_roipool.roi_pool` for shapes and units.

        Args:
          features: `[N, H, W, C]` or `[H, W, C]`.
          rois: `[K, 5]`, `[N, R, 4]` or `[R, 4]`.
          valid: bool, one per RoI, or `None` for all.

        Returns:
          The pooled features.
        """
        return ops.roi_pool(
            features,
            rois,
            self.output_size,
            self.spatial_scale,
            valid=valid,
            layout=self.layout,
            forward_mode=self.forward_mode,
        )
