"""RoI pooling as a Flax NNX module. Needs flax."""

from typing import Any

from flax import nnx
from jax import Array

from jax_roipool import ops
from jax_roipool.arguments import Layout


class RoIPool(nnx.Module):
    """`jax_roipool.roi_pool` with its static arguments as attributes.

    The module of Fast R-CNN code, `RoIPool(pooled_height, pooled_width,
    spatial_scale)(features, rois)`; it has no parameters.

    Attributes:
      output_size: Bins per RoI, `(PH, PW)` or one number for both.
      spatial_scale: Cells of the feature map per pixel of the image, a number
        or `(scale_h, scale_w)`.
      layout: "NHWC" or "NCHW".
      forward_mode: Allows `jvp`, `jacfwd` and `linearize`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool.nnx import RoIPool
      >>> pool = RoIPool((7, 7), spatial_scale=1 / 16)
      >>> features = jnp.ones((1, 38, 63, 8))
      >>> rois = jnp.array([[0, 16.0, 16.0, 240.0, 320.0]])
      >>> pool(features, rois).shape
      (1, 7, 7, 8)
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float | tuple[float, float] = 1.0,
        layout: Layout = "NHWC",
        forward_mode: bool = False,
    ) -> None:
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.layout: Layout = layout
        self.forward_mode = forward_mode

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
