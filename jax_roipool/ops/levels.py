"""Which level of a feature pyramid each RoI reads."""

import math
import numbers
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import arguments
from jax_roipool.arguments import ArrayLike
from jax_roipool.geometry.levels import least_areas, level_of


def fpn_levels(
    rois: ArrayLike,
    num_levels: int,
    *,
    min_level: int = 2,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Array:
    """Assigns RoIs to the levels of a feature pyramid by their size.

    Equation 1 of Feature Pyramid Networks (Lin et al. 2017): a box whose area is
    that of a square of `canonical_size` pixels belongs to `canonical_level`, one of
    half the side to the level below. The levels are those of torchvision's
    `LevelMapper` for every float32 area; areas are compared with constants, so that
    all platforms agree. What the ops take as `levels`, and do themselves where that is
    `None`: with other sizes, or another lowest level, call it and pass the result.

    Args:
      rois: [..., 4] = (x1, y1, x2, y2) in pixels of the image, or [K, 5] with the
        image index before; any real dtype, read as float32.
      num_levels: Levels of the pyramid, 1 to 16. Static.
      min_level: The lowest level, by the exponent of its stride: 2 for one of 4
        pixels. Static.
      canonical_size: Pixels. Static.
      canonical_level: The level of boxes of that size. Static.

    Returns:
      int32, one per RoI, from 0, which is `min_level`, to `num_levels - 1`. Sides are
      `x2 - x1`. A box without area, or reversed along one axis, belongs to level 0;
      so does one that is not finite, unless its area is infinity.

    Raises:
      TypeError, ValueError: An argument has a wrong type or shape, or is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import fpn_levels
      >>> rois = jnp.array([[0.0, 0, 50, 50], [0, 0, 112, 112], [0, 0, 600, 400]])
      >>> fpn_levels(rois, num_levels=4)   # of strides 4, 8, 16, 32
      Array([0, 1, 3], dtype=int32)
    """
    rois = arguments.check_rois(rois)
    if rois.ndim == 0 or rois.shape[-1] not in (4, 5):
        raise ValueError(f"rois must have 4 or 5 numbers each, got {rois.shape}")
    num_levels = arguments.check_int("num_levels", num_levels, 1, arguments.MAX_LEVELS)
    exponents = {"min_level": min_level, "canonical_level": canonical_level}
    lowest, usual = (arguments.check_int(k, v, 0, 64) for k, v in exponents.items())
    size = canonical_size
    if isinstance(size, bool) or not isinstance(size, numbers.Real):
        raise TypeError(f"canonical_size must be a number, got {size!r}")
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"canonical_size must be finite and above 0, got {size!r}")
    areas = tuple(least_areas(num_levels, lowest, float(size), usual))
    return _fpn_levels(rois, areas)


@partial(jax.jit, static_argnums=1)
def _fpn_levels(rois: Array, areas: tuple[jnp.float32, ...]) -> Array:
    rois = jax.lax.stop_gradient(rois)
    return level_of(rois[..., -4:].astype(jnp.float32), list(areas))
