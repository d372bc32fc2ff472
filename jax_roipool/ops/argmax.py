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


def _plain_gather(*operands: Array, layout: str) -> Array:
    """The tangent at the stored argmax, 0 where that names no cell."""
    tangents, (image_index, argmax), level = plain.split(operands, 2)
    if plain.has_zero(tangents[0].shape[:-3]) or plain.has_zero(argmax.shape):
        return jnp.zeros(argmax.shape, tangents[0].dtype)
    tangents = [plain.channels_last(x, layout) for x in tangents]
    pyramid = plain.Pyramid.of_maps(tangents)
    if plain.has_zero((pyramid.cells,)):  # nothing that JAX could take slices of
        return jnp.zeros(argmax.shape, tangents[0].dtype)
    *group_shape, images, _, _, _ = tangents[0].shape
    where = _coordinates(
        image_index, argmax, level, group_shape, images, pyramid, layout
    )
    pooled = pyramid.flatten(tangents).at[where].get(mode="fill", fill_value=0)
    return plain.to_layout(
        pooled.reshape(*image_index.shape, *pooled.shape[1:]), layout
    )


def _plain_scatter(
    cotangent: Array,
    image_index: Array,
    argmax: Array,
    level: Array | None = None,
    *,
    group_ndim: int,
    map_size: tuple[Size, ...],
    layout: str,
) -> list[Array]:
    """The cotangent added up at the stored argmax, in float32 or wider."""
    dtype = cotangent.dtype
    cotangent = plain.channels_last(cotangent, layout)
    images, pyramid = plain.Pyramid.of_sizes(map_size)
    group_shape = image_index.shape[:group_ndim]
    where = _coordinates(
        image_index, argmax, level, group_shape, images, pyramid, layout
    )
    wide = jnp.promote_types(dtype, jnp.float32)
    shape = (math.prod(group_shape), images, pyramid.cells, cotangent.shape[-1])
    sums = jnp.zeros(shape, wide)
    sums = sums.at[where].add(
        cotangent.reshape(where[2].shape).astype(wide),
        mode="drop",
    )
    gradients = pyramid.unflatten(sums.astype(dtype), group_shape)
    return [plain.to_layout(x, layout) for x in gradients]


def _coordinates(
    image_index: Array,
    argmax: Array,
    level: Array | None,
    group_shape: Sequence[Size],
    images: Size,
    pyramid: plain.Pyramid,
    layout: str,
) -> tuple[Array, Array, Array, Array]:
    """Indices (group, image, cell, channel) of every pooled value.

    An argmax that names no cell of its level becomes one out of bounds.
    """
    argmax = plain.channels_last(argmax, layout)
    rois = plain.FlatRois.of(
        image_index, level, group_shape, images, len(pyramid.sizes)
    )
    argmax = argmax.reshape(rois.count, *argmax.shape[-3:])

    def per_roi(of_levels: Sequence[Any]) -> Any:
        x = rois.choose(of_levels)
        return x[:, None, None, None] if jnp.ndim(x) else x

    cells = per_roi([height * width for height, width in pyramid.sizes])
    some = rois.some[:, None, None, None] & (argmax >= 0) & (argmax < cells)
    return (
        rois.group[:, None, None, None],
        rois.image[:, None, None, None],
        jnp.where(some, argmax + per_roi(pyramid.begin), pyramid.cells),
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


def _workspace(operands: Any, results: Any, params: Any) -> list[Any]:
    """Two numbers for each RoI: the cells between which its argmax lies."""
    _, image_index, *_ = operands
    return [jax.core.ShapedArray((*image_index.shape, 2), np.int32)]


GATHER = lowering.register(
    Op(
        "roi_gather",
        "*G N H W C, G K, G K P Q C, ?G K -> G K P Q C",
        plain=_plain_gather,
        example=lambda dtype, layout: _example(dtype, False, layout),
    )
)

SCATTER = lowering.register(
    Op(
        "roi_scatter",
        "G K P Q C, G K, G K P Q C, ?G K -> *G N H W C",
        plain=_plain_scatter,
        sizes={"map_size": "N H W"},
        called=("the cotangent", "the gradient of features"),
        workspace=_workspace,
        example=lambda dtype, layout: _example(dtype, True, layout),
    )
)

define_linear(GATHER, SCATTER)
define_linear(SCATTER, GATHER)
