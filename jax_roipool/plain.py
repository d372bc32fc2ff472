"""What ops in plain JAX share.

They take arrays of their signature (primitive.py), and hold no temporary larger than
a few copies of the result and of the feature map, whatever the boxes are.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

# A dimension: an int, or a symbolic one under `jax.export`.
Size = Any


def channels_last(x: Array, layout: str) -> Array:
    """An array of a layout with its channels last."""
    return jnp.moveaxis(x, -3, -1) if layout == "NCHW" else x


def to_layout(x: Array, layout: str) -> Array:
    """An array with its channels last in a layout."""
    return jnp.moveaxis(x, -1, -3) if layout == "NCHW" else x


def flat_indices(
    image: Array, group_shape: Sequence[Size], images: Size
) -> tuple[Array, Array, Array]:
    """Of each RoI, over all groups: its group, its image, whether it has one.

    RoIs without an image are given image 0, to be masked.
    """
    groups = math.prod(group_shape)
    rois = math.prod(image.shape[len(group_shape) :])
    group = jnp.broadcast_to(
        jnp.arange(groups, dtype=jnp.int32)[:, None], (groups, rois)
    )
    valid = (image >= 0) & (image < images)
    flat = (groups * rois,)
    return (
        group.reshape(flat),
        jnp.where(valid, image, 0).reshape(flat),
        valid.reshape(flat),
    )


def has_zero(shape: Sequence[Size]) -> bool:
    """Whether an array of the shape is empty, for all that is known."""
    return any(isinstance(size, int) and size == 0 for size in shape)
