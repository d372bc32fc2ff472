"""What ops in plain JAX share.

They take arrays of their signature (primitive.py), and hold no temporary larger than
a few copies of the result and of the feature map, whatever the boxes are.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

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


class FloatFormat:
    """A float dtype as integers of its width, to compare by: as csrc/core/compare.h.

    Keys are in the order that pooling wants: +0 equals -0, and a NaN is greater than
    all numbers and equal to every NaN. From `bits` on floats are handled as integers,
    because XLA on CPU flushes subnormal floats to zero, even where it only moves half
    precision.
    """

    def __init__(self, dtype: Any) -> None:
        info = jnp.finfo(dtype)
        self.dtype = dtype
        self.integer = {16: jnp.int16, 32: jnp.int32, 64: jnp.int64}[info.bits]
        self.greatest = self.integer(2 ** (info.bits - 1) - 1)
        self.least = self.integer(-(2 ** (info.bits - 1)))
        self.infinity = self.integer((2**info.nexp - 1) << info.nmant)

    def bits(self, x: Array) -> Array:
        """The floats as integers."""
        return lax.bitcast_convert_type(x, self.integer)

    def key(self, bits: Array) -> Array:
        """Above `least`, whatever the float."""
        magnitude = bits & self.greatest
        key = jnp.where(bits < 0, -magnitude, magnitude)
        return jnp.where(magnitude > self.infinity, self.greatest, key)

    def value(self, key: Array) -> Array:
        """The float of a key; of a NaN, one of them."""
        bits = jnp.where(key < 0, -key | self.least, key)
        return lax.bitcast_convert_type(bits, self.dtype)
