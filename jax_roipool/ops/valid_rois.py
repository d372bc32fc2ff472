"""Which RoIs an op does anything for."""

import dataclasses

import jax
from jax import Array

from jax_roipool import arguments, forms
from jax_roipool.arguments import ArrayLike, Features, Layout


def valid_rois(
    features: Features,
    rois: ArrayLike,
    *,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
) -> Array:
    """Which RoIs are not empty.

    A RoI is empty where `valid` says so, where its image index is none of
    0 ... N-1, where its level is none, or where one of its numbers is not finite
    (after boxes became
    float32). A box outside the image or a reversed one is not empty in this
    sense.

    Args:
      features: As in `roi_pool`; only the shape matters.
      rois: As in `roi_pool`.
      levels: As in `roi_pool`.
      valid: As in `roi_pool`.
      layout: As in `roi_pool`.

    Returns:
      bool, one per RoI.

    Raises:
      TypeError, ValueError: As in `roi_pool`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import valid_rois
      >>> features = jnp.zeros((2, 8, 8, 3))             # images 0 and 1
      >>> rois = jnp.array([[0, 1.0, 1.0, 5.0, 5.0],
      ...                   [2, 1.0, 1.0, 5.0, 5.0],
      ...                   [1, 1.0, 1.0, jnp.nan, 5.0]])
      >>> valid_rois(features, rois)
      Array([ True, False, False], dtype=bool)
    """
    arguments.check_layout(layout)
    arrays = arguments.check_arrays(features, rois, levels, valid, layout)
    few = dataclasses.replace(arrays, maps=())  # of maps only sizes matter
    return _valid_rois(few, len(arrays.maps), arrays.maps[0].shape[0])


_valid_rois = jax.jit(forms.valid_rois, static_argnums=(1, 2))
