"""What ops in plain JAX share.

They take arrays of their signature (primitive.py), and hold no temporary larger than
a few copies of the result and of the feature map, whatever the boxes are.
"""

import dataclasses
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


def split(
    operands: Sequence[Array], others: int
) -> tuple[Sequence[Array], Sequence[Array], Array | None]:
    """A call's maps, so many others, and the level of each RoI where there are several.

    For an op whose signature begins with starred maps and ends with an optional level.
    """
    maps = len(operands) - others
    if maps == 1:
        return operands[:1], operands[1:], None
    return operands[: maps - 1], operands[maps - 1 : -1], operands[-1]


@dataclasses.dataclass(frozen=True)
class FlatRois:
    """The RoIs of all groups in one row.

    Attributes:
      group: int32 [K], of each RoI.
      image: int32 [K], 0 where it has none.
      level: int32 [K], 0 where it has none.
      some: Whether it has an image and a level.
    """

    group: Array
    image: Array
    level: Array
    some: Array

    @classmethod
    def of(
        cls,
        image_index: Array,
        level: Array | None,
        group_shape: Sequence[Size],
        images: Size,
        num_levels: int,
    ) -> "FlatRois":
        """From operands [*G, *K]."""
        groups = math.prod(group_shape)
        rois = math.prod(image_index.shape[len(group_shape) :])
        group = jnp.arange(groups, dtype=jnp.int32)[:, None]
        group = jnp.broadcast_to(group, (groups, rois)).reshape(groups * rois)
        image = image_index.reshape(groups * rois)
        some = (image >= 0) & (image < images)
        if level is None:
            level = jnp.zeros_like(image)
        else:
            level = level.reshape(groups * rois)
            some &= (level >= 0) & (level < num_levels)
        return cls(group, jnp.where(some, image, 0), jnp.where(some, level, 0), some)

    @property
    def count(self) -> Size:
        """How many; `len` would take no symbol."""
        return self.group.shape[0]

    def choose(self, of_levels: Sequence[Any]) -> Any:
        """Of one thing per level, each a number or an array [K, ...], each RoI's."""
        chosen, *others = of_levels
        for number, other in enumerate(others, 1):
            ndim = max(jnp.ndim(chosen), jnp.ndim(other), 1)
            here = (self.level == number).reshape(-1, *(1,) * (ndim - 1))
            chosen = jnp.where(here, other, chosen)
        return chosen


class Pyramid:
    """The cells of maps of one or more levels, one after another."""

    def __init__(self, sizes: Sequence[tuple[Size, Size]]) -> None:
        self.sizes = sizes
        counts = [height * width for height, width in sizes]
        self.begin = [sum(counts[:i]) for i in range(len(counts))]
        self.cells = sum(counts)
        if isinstance(self.cells, int) and self.cells >= 2**31:
            raise ValueError(
                "features must have fewer than 2**31 cells on all levels together "
                f"where plain JAX runs, got {self.cells}"
            )

    @classmethod
    def of_maps(cls, maps: Sequence[Array]) -> "Pyramid":
        """Of maps with their channels last."""
        return cls([(x.shape[-3], x.shape[-2]) for x in maps])

    @classmethod
    def of_sizes(cls, map_size: Sequence[Size]) -> tuple[Size, "Pyramid"]:
        """Of a parameter "N H W", with H and W of every level; images before."""
        images, *cells = map_size
        return images, cls(list(zip(cells[::2], cells[1::2], strict=True)))

    def flatten(self, maps: Sequence[Array]) -> Array:
        """[*G, N, H, W, C] of every level to [G, N, cells, C]."""
        *groups, images, _, _, channels = maps[0].shape
        flat = [
            x.reshape(math.prod(groups), images, height * width, channels)
            for x, (height, width) in zip(maps, self.sizes, strict=True)
        ]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=2)

    def unflatten(self, flat: Array, group_shape: Sequence[Size]) -> list[Array]:
        """The reverse."""
        _, images, _, channels = flat.shape
        return [
            lax.slice_in_dim(flat, begin, begin + height * width, axis=2).reshape(
                *group_shape, images, height, width, channels
            )
            for begin, (height, width) in zip(self.begin, self.sizes, strict=True)
        ]


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
