"""Reading maps at a stored argmax, and adding up there: the derivatives of a maximum.

`roi_gather` is linear in its first operand and `roi_scatter` is its transpose. Both
serve every op that says where it found its maxima: int32, `h * W + w` within an image
and channel, and any other number for a bin without cells.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jax_roipool import lowering, plain
from jax_roipool.plain import Size
from jax_roipool.primitive import Op, define_linear


def keep_for_remat(x: Array) -> Array:
    """What derivatives need of a pooling, by a name that remat policies know."""
    return checkpoint_name(x, "roi_pool_argmax")


def _plain_gather(
    tangent: Array, image_index: Array, argmax: Array, *, layout: str
) -> Array:
    """The tangent at the stored argmax, 0 where that names no cell."""
    if plain.has_zero(tangent.shape):  # nothing that JAX could take slices of
        return jnp.zeros(argmax.shape, tangent.dtype)
    tangent = plain.channels_last(tangent, layout)
    *group_shape, images, height, width, channels = tangent.shape
    cells = height * width
    where = _coordinates(image_index, argmax, group_shape, images, cells, layout)
    flat = tangent.reshape(math.prod(group_shape), images, cells, channels)
    pooled = flat.at[where].get(mode="fill", fill_value=0)
    return plain.to_layout(
        pooled.reshape(*image_index.shape, *pooled.shape[1:]), layout
    )


def _plain_scatter(
    cotangent: Array,
    image_index: Array,
    argmax: Array,
    *,
    group_ndim: int,
    map_size: tuple[Size, Size, Size],
    layout: str,
) -> Array:
    """The cotangent added up at the stored argmax, in float32 or wider."""
    dtype = cotangent.dtype
    cotangent = plain.channels_last(cotangent, layout)
    images, height, width = map_size
    channels = cotangent.shape[-1]
    group_shape = image_index.shape[:group_ndim]
    cells = height * width
    where = _coordinates(image_index, argmax, group_shape, images, cells, layout)
    wide = jnp.promote_types(dtype, jnp.float32)
    sums = jnp.zeros((math.prod(group_shape), images, cells, channels), wide)
    sums = sums.at[where].add(
        cotangent.reshape(where[2].shape).astype(wide),
        mode="drop",
    )
    gradient = sums.astype(dtype).reshape(*group_shape, images, height, width, channels)
    return plain.to_layout(gradient, layout)


def _coordinates(
    image_index: Array,
    argmax: Array,
    group_shape: Sequence[Size],
    images: Size,
    cells: Size,
    layout: str,
) -> tuple[Array, Array, Array, Array]:
    """Indices (group, image, cell, channel) of every pooled value.

    An argmax that names no cell of an image becomes `cells`, out of bounds.
    """
    argmax = plain.channels_last(argmax, layout)
    group, index, valid = plain.flat_indices(image_index, group_shape, images)
    argmax = argmax.reshape(*group.shape, *argmax.shape[-3:])
    valid = valid[:, None, None, None] & (argmax >= 0) & (argmax < cells)
    return (
        group[:, None, None, None],
        index[:, None, None, None],
        jnp.where(valid, argmax, cells),
        jnp.arange(argmax.shape[-1], dtype=jnp.int32),
    )


# --- The records -------------------------------------------------------------


def _example(dtype: str, map_size: bool, layout: str) -> tuple[Any, dict[str, Any]]:
    """Small integers, whose sums are exact in any order."""
    rng = np.random.default_rng(1)
    maps = np.asarray(rng.integers(-9, 10, (2, 19, 31, 37)), np.float32)
    pooled = np.asarray(rng.integers(-2, 3, (60, 7, 5, 37)), np.float32)
    argmax = rng.integers(-1, 19 * 31 + 1, pooled.shape).astype(np.int32)
    image_index = rng.integers(-1, 3, 60).astype(np.int32)
    first = plain.to_layout(jnp.asarray(pooled if map_size else maps, dtype), layout)
    operands = (first, image_index, plain.to_layout(jnp.asarray(argmax), layout))
    params: dict[str, Any] = {"layout": layout}
    if map_size:
        params |= {"group_ndim": 0, "map_size": (2, 19, 31)}
    return operands, params


def _workspace(cotangent: Any, image_index: Any, argmax: Any) -> list[Any]:
    """Two numbers for each RoI: the cells between which its argmax lies."""
    return [jax.core.ShapedArray((*image_index.shape, 2), np.int32)]


GATHER = lowering.register(
    Op(
        "roi_gather",
        "G N H W C, G K, G K P Q C -> G K P Q C",
        plain=_plain_gather,
        example=lambda dtype, layout: _example(dtype, False, layout),
    )
)

SCATTER = lowering.register(
    Op(
        "roi_scatter",
        "G K P Q C, G K, G K P Q C -> G N H W C",
        plain=_plain_scatter,
        sizes={"map_size": "N H W"},
        called=("the cotangent", "the gradient of features"),
        workspace=_workspace,
        example=lambda dtype, layout: _example(dtype, True, layout),
    )
)

define_linear(GATHER, SCATTER)
define_linear(SCATTER, GATHER)
