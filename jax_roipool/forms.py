"""Three forms of a call made one: what primitives take.

    [N, H, W, C] with [K, 5]      ->  maps [N, H, W, C], boxes [K, 4]
    [N, H, W, C] with [N, R, 4]   ->  maps [N, 1, H, W, C], boxes [N, R, 4]: each
                                      image is a group
    [H, W, C] with [R, 4]         ->  maps [1, H, W, C], boxes [R, 4]

and the index of each RoI's image, -1 where the RoI is empty.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import partitioning
from jax_roipool.arguments import Layout
from jax_roipool.primitive import Factors


def _index(index: Array, images: Any) -> Array:
    """The index as int32, or -1 where it names none of `images` images."""
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
    return jnp.where(inside & (index < images), index, -1)


def boxes_and_image_index(
    rois: Array, valid: Array | None, images: Any
) -> tuple[Array, Array]:
    """Boxes as float32, and the image index of each, -1 where it is empty."""
    boxes = rois[..., -4:].astype(jnp.float32)
    if rois.shape[-1] == 5:
        image_index = _index(rois[..., 0], images)
    else:
        image_index = jnp.zeros_like(boxes[..., 0], dtype=jnp.int32)
    image_index = jnp.where(jnp.isfinite(boxes).all(axis=-1), image_index, -1)
    if valid is not None:
        image_index = jnp.where(valid, image_index, -1)
    return boxes, image_index


def _factors(
    features: Array | None, rois: Array, layout: Layout
) -> tuple[Factors, Factors, Factors]:
    """Those of features, rois and valid, as `Op.factors` names them."""
    group = ("g0",) if rois.ndim == 3 else ()
    axes: Factors = ("h", "w", "c") if layout == "NHWC" else ("c", "h", "w")
    if features is not None and features.ndim == 4:
        axes = (*(group or ("n",)), *axes)
    return axes, (*group, "k0", "b4"), (*group, "k0")


def canonical(
    features: Array, rois: Array, valid: Array | None, layout: Layout
) -> tuple[Array, Array, Array]:
    """Maps, boxes and image indices, sharded and varying as primitives want them."""
    rois = jax.lax.stop_gradient(rois)
    features, rois, valid = partitioning.reshard(
        (features, rois, valid), _factors(features, rois, layout)
    )
    boxes, image_index = boxes_and_image_index(rois, valid, features.shape[0])
    if features.ndim == 4 and rois.ndim == 3:
        features = jnp.expand_dims(features, 1)  # each image a group
    elif features.ndim == 3:
        features = jnp.expand_dims(features, 0)
    maps, boxes, image_index = partitioning.match_varying_axes(
        features, boxes, image_index
    )
    return maps, boxes, image_index


def valid_rois(rois: Array, valid: Array | None, images: Any) -> Array:
    """Which RoIs are not empty, where features have so many images."""
    _, rois, valid = partitioning.reshard(
        (None, rois, valid), _factors(None, rois, "NHWC")
    )
    return boxes_and_image_index(rois, valid, images)[1] >= 0
