"""Three forms of a call made one: what primitives take.

    [N, H, W, C] with [K, 5]      ->  maps [N, H, W, C], boxes [K, 4]
    [N, H, W, C] with [N, R, 4]   ->  maps [N, 1, H, W, C], boxes [N, R, 4]: each
                                      image is a group
    [H, W, C] with [R, 4]         ->  maps [1, H, W, C], boxes [R, 4]

as many maps as there are levels; the index of each RoI's image, -1 where the RoI is
empty; and with several levels the level of each RoI.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import partitioning
from jax_roipool.arguments import Arrays, Layout
from jax_roipool.geometry.levels import least_areas, level_of
from jax_roipool.primitive import Factors


def _index(index: Array, end: Any) -> Array:
    """The index as int32, or -1 where it is none of 0 ... end - 1."""
    if jnp.issubdtype(index.dtype, jnp.integer):
        if index.dtype.itemsize < 4:  # room for the comparisons
            index = index.astype(jnp.int32)
        inside = (index >= 0) & (index <= jnp.iinfo(jnp.int32).max)
    else:
        if index.dtype.itemsize == 1 or index.dtype == jnp.float16:
            index = index.astype(jnp.float32)
        # By its bits: XLA on CPU takes a negative subnormal number for zero.
        integer = jnp.dtype(f"int{8 * index.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(index, integer)
        negative = (bits < 0) & (bits != jnp.iinfo(integer).min)  # -0 is 0
        inside = ~negative & (index < 2.0**31)  # no NaN passes
    index = jnp.where(inside, index, 0).astype(jnp.int32)
    return jnp.where(inside & (index < end), index, -1)


@dataclasses.dataclass(frozen=True)
class Rois:
    """RoIs as primitives take them.

    Attributes:
      boxes: [..., 4].
      image_index: int32 [...], -1 where the RoI is empty.
      level: int32 [...], of which level of a pyramid.
    """

    boxes: Array
    image_index: Array
    level: Array


def read_rois(
    arrays: Arrays, num_levels: int, images: Any, dtype: Any = jnp.float32
) -> Rois:
    """Boxes in a dtype, and which image and level each reads."""
    rois = arrays.rois
    boxes = rois[..., -4:].astype(dtype)
    if rois.shape[-1] == 5:
        image_index = _index(rois[..., 0], images)
    else:
        image_index = jnp.zeros_like(boxes[..., 0], dtype=jnp.int32)
    image_index = jnp.where(jnp.isfinite(boxes).all(axis=-1), image_index, -1)
    level = jnp.zeros_like(image_index)
    if arrays.levels is not None:
        level = _index(arrays.levels, num_levels)
        image_index = jnp.where(level >= 0, image_index, -1)
    elif num_levels > 1:
        areas = least_areas(num_levels, 2, 224, 4)
        level = level_of(boxes.astype(jnp.float32), areas)
    if arrays.valid is not None:
        image_index = jnp.where(arrays.valid, image_index, -1)
    return Rois(boxes, image_index, level)


def _reshard(arrays: Arrays, layout: Layout) -> Arrays:
    """The arrays, sharded as ops can work on them."""
    group = ("g0",) if arrays.rois.ndim == 3 else ()
    per_roi: Factors = (*group, "k0")

    def of_map(number: int, x: Array) -> Factors:
        axes = [f"h{number}", f"w{number}"]
        axes.insert(2 if layout == "NHWC" else 0, "c")
        return (*((group or ("n",)) if x.ndim == 4 else ()), *axes)

    factors = [of_map(i, x) for i, x in enumerate(arrays.maps)]
    *maps, rois, levels, valid = partitioning.reshard(
        (*arrays.maps, arrays.rois, arrays.levels, arrays.valid),
        (*factors, (*per_roi, "b4"), per_roi, per_roi),
    )
    return Arrays(tuple(maps), rois, levels, valid)


def canonical(
    arrays: Arrays,
    layout: Layout,
    *,
    box_dtype: Any = jnp.float32,
    box_gradient: bool = False,
) -> tuple[Array, ...]:
    """The operands of a call: maps, boxes, image indices, and levels if several.

    Sharded and varying over manual axes as primitives want them.
    """
    if not box_gradient:
        arrays = dataclasses.replace(arrays, rois=jax.lax.stop_gradient(arrays.rois))
    arrays = _reshard(arrays, layout)
    maps = arrays.maps
    images = maps[0].shape[0] if maps[0].ndim == 4 else 1
    rois = read_rois(arrays, len(maps), images, box_dtype)
    if maps[0].ndim == 3:
        maps = tuple(jnp.expand_dims(x, 0) for x in maps)
    elif arrays.rois.ndim == 3:
        maps = tuple(jnp.expand_dims(x, 1) for x in maps)  # each image a group
    operands = (*maps, rois.boxes, rois.image_index)
    if len(maps) > 1:
        operands += (rois.level,)
    result: tuple[Array, ...] = partitioning.match_varying_axes(*operands)
    return result


def valid_rois(arrays: Arrays, num_levels: int, images: Any) -> Array:
    """Which RoIs are not empty, for maps of so many levels and images."""
    arrays = _reshard(arrays, "NHWC")
    return read_rois(arrays, num_levels, images).image_index >= 0
