"""The ops as Flax Linen modules, which have no parameters. Needs flax."""

from jax import Array

from jax_roipool import modules
from jax_roipool.arguments import ArrayLike, Layout
from jax_roipool.ops.roi_pool import roi_pool

with modules.needs_flax(__name__):
    from flax import linen as nn

__all__ = ["RoIPool"]


class _Module(nn.Module):
    def __post_init__(self) -> None:
        modules.make_hashable(self)
        super().__post_init__()


class RoIPool(_Module):
    """`jax_roipool.roi_pool` with its static arguments as fields.

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

    def __call__(
        self, features: ArrayLike, rois: ArrayLike, *, valid: ArrayLike | None = None
    ) -> Array:
        """Pools; takes the arrays of `jax_roipool.roi_pool`.

        Args:
          features: `[N, H, W, C]` or `[H, W, C]`.
          rois: `[K, 5]`, `[N, R, 4]` or `[R, 4]`.
          valid: bool, one per RoI, or `None` for all.

        Returns:
          The pooled features.
        """
        pooled: Array = modules.call(roi_pool, self, features, rois, valid=valid)
        return pooled
