"""The primitives, what they mean to JAX's transformations, and nothing else.

Canonical shapes, channels last ("NHWC"); with "NCHW" the channels stand before
the rows in every array that has them:

    features, tangent, gradient   [*G, N, H, W, C]
    boxes                         [*G, *K, 4]    float32, (x1, y1, x2, y2)
    image                         [*G, *K]       int32, an index into N
    pooled, argmax, cotangent     [*G, *K, PH, PW, C]

A group (G) is a set of images that an image index may name; there may be any
number of group axes and of RoI axes (K), none included. A batching rule only
moves an axis: into G, or into K where the features are not mapped, which are
therefore never copied. No index is ever offset, so an index that names no image
cannot come to name a neighbour's.

Operands vary over the same manual mesh axes; `ops.py` sees to that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla
from jax.sharding import PartitionSpec

_SHAPES: dict[str, Callable[..., Any]] = {}


def _primitive(name: str, abstract_eval: Callable[..., Any]) -> Primitive:
    primitive = Primitive(name)
    _SHAPES[name] = abstract_eval
    primitive.def_impl(
        lambda *args, **params: xla.apply_primitive(primitive, *args, **params)
    )
    primitive.def_abstract_eval(abstract_eval)
    return primitive


def on_device(primitive: Primitive) -> Primitive:
    """The same op within one device: no transformation sees it.

    What the compiler calls on each shard of sharded arrays (partitioning.py).
    """
    twin = _primitive(f"{primitive.name}_on_device", _SHAPES[primitive.name])
    twin.multiple_results = primitive.multiple_results
    return twin


def named(argmax: jax.Array) -> jax.Array:
    """The argmax that derivatives keep, by a name that remat policies know."""
    return checkpoint_name(argmax, "roi_pool_argmax")


# --- Shapes, shardings -----------------------------------------------------


# XLA ends the process where a size overflows 64 bits, and our lowerings hold
# arrays of up to 32 bytes for each number. No process has 2**57 bytes of addresses.
_MAX_NUMBERS = 2**56


def _check_size(name: str, shape: Sequence[Any]) -> None:
    """Refuses an array that no machine holds, by any size but 0 or a symbol."""
    sizes = [size for size in shape if isinstance(size, int) and size > 0]
    if math.prod(sizes) >= _MAX_NUMBERS:
        raise ValueError(
            f"{name} of shape {list(shape)} would have 2**56 numbers or more "
            "(sizes of 0 left out), which no machine holds"
        )


def _array_like(
    name: str, aval: Any, shape: Sequence[Any], dtype: Any, spec: Any
) -> Any:
    """An abstract array of this shape, on the mesh and manual axes of `aval`."""
    _check_size(name, shape)
    seen: set[Any] = set()
    entries = []
    for entry in spec:  # no mesh axis may shard two dimensions
        axes = entry if isinstance(entry, tuple) else (entry,)
        repeated = None not in axes and bool(seen.intersection(axes))
        entries.append(None if repeated else entry)
        seen.update(() if repeated else axes)
    return aval.update(
        shape=tuple(shape),
        dtype=jnp.dtype(dtype),
        weak_type=False,
        sharding=aval.sharding.update(spec=PartitionSpec(*entries)),
    )


def rows_columns_channels(of: Sequence[Any], layout: str) -> tuple[Any, ...]:
    """The last three entries of a shape or spec, whatever the layout."""
    if layout == "NHWC":
        rows, columns, channels = of[-3:]
    else:
        channels, rows, columns = of[-3:]
    return rows, columns, channels


def _in_layout(rows: Any, columns: Any, channels: Any, layout: str) -> tuple[Any, ...]:
    if layout == "NHWC":
        return (rows, columns, channels)
    return (channels, rows, columns)


def _pooled_like(features: Any, image: Any, size: tuple[Any, Any], layout: str) -> Any:
    """Pooled values of `size` (rows, columns) for these features."""
    groups = features.ndim - 4
    spec = tuple(features.sharding.spec)
    *_, channels = rows_columns_channels(features.shape, layout)
    *_, channels_spec = rows_columns_channels(spec, layout)
    _check_size("features", features.shape)
    return _array_like(
        "pooled",
        features,
        (*image.shape, *_in_layout(size[0], size[1], channels, layout)),
        features.dtype,
        (
            *spec[:groups],
            *tuple(image.sharding.spec)[groups:],
            *_in_layout(None, None, channels_spec, layout),
        ),
    )


# --- Batching --------------------------------------------------------------


def _move_to(
    axis_data: Any, x: jax.Array, source: int | None, destination: int
) -> jax.Array:
    """`x` with its mapped axis at `destination`, broadcast if it has none."""
    if source is None:
        return batching.broadcast(
            x, axis_data.size, destination, axis_data.explicit_mesh_axis
        )
    return jnp.moveaxis(x, source, destination)


def _batch_maps_over_rois(primitive: Primitive) -> Callable[..., Any]:
    """The rule of ops that read a map per RoI: (map, *per RoI) -> per RoI."""

    def rule(axis_data: Any, args: Any, dims: Any, **params: Any) -> tuple[Any, Any]:
        if all(dim is None for dim in dims):
            out = primitive.bind(*args, **params)
            return out, [None] * len(out) if primitive.multiple_results else None
        maps, *per_roi = args
        map_dim, *roi_dims = dims
        if map_dim is None:
            destination = maps.ndim - 4  # the first RoI axis
        else:
            destination = 0  # the first group axis
            maps = _move_to(axis_data, maps, map_dim, 0)
        per_roi = [
            _move_to(axis_data, x, dim, destination)
            for x, dim in zip(per_roi, roi_dims, strict=True)
        ]
        out = primitive.bind(maps, *per_roi, **params)
        if primitive.multiple_results:
            return out, [destination] * len(out)
        return out, destination

    return rule


# --- roi_pool: (features, boxes, image) -> pooled --------------------------


def _roi_pool_shape(
    features: Any,
    boxes: Any,
    image: Any,
    *,
    output_size: tuple[int, int],
    spatial_scale: tuple[float, float],
    layout: str,
) -> Any:
    del boxes, spatial_scale
    return _pooled_like(features, image, output_size, layout)


def _roi_pool_jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    tangent = tangents[0]
    if type(tangent) is ad.Zero:
        pooled = roi_pool_p.bind(*primals, **params)
        return pooled, ad.Zero(jax.typeof(pooled).to_tangent_aval())
    pooled, argmax = roi_pool_argmax_p.bind(*primals, **params)
    return pooled, roi_gather_p.bind(
        tangent, primals[2], named(argmax), layout=params["layout"]
    )


roi_pool_p = _primitive("roi_pool", _roi_pool_shape)
ad.primitive_jvps[roi_pool_p] = _roi_pool_jvp
batching.fancy_primitive_batchers[roi_pool_p] = _batch_maps_over_rois(roi_pool_p)


# --- roi_pool_argmax: (features, boxes, image) -> pooled, argmax -----------


def _roi_pool_argmax_shape(*args: Any, **params: Any) -> tuple[Any, Any]:
    pooled = _roi_pool_shape(*args, **params)
    return pooled, pooled.update(dtype=jnp.dtype(jnp.int32))


def _roi_pool_argmax_jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    pooled, argmax = roi_pool_argmax_p.bind(*primals, **params)
    argmax = named(argmax)
    no_tangent = ad.Zero(jax.typeof(argmax).to_tangent_aval())
    if type(tangents[0]) is ad.Zero:
        tangent = ad.Zero(jax.typeof(pooled).to_tangent_aval())
    else:
        tangent = roi_gather_p.bind(
            tangents[0], primals[2], argmax, layout=params["layout"]
        )
    return (pooled, argmax), (tangent, no_tangent)


roi_pool_argmax_p = _primitive("roi_pool_argmax", _roi_pool_argmax_shape)
roi_pool_argmax_p.multiple_results = True
ad.primitive_jvps[roi_pool_argmax_p] = _roi_pool_argmax_jvp
batching.fancy_primitive_batchers[roi_pool_argmax_p] = _batch_maps_over_rois(
    roi_pool_argmax_p
)


# --- roi_gather: (tangent, image, argmax) -> pooled, linear in tangent -----


def _roi_gather_shape(tangent: Any, image: Any, argmax: Any, *, layout: str) -> Any:
    rows, columns, _ = rows_columns_channels(argmax.shape, layout)
    return _pooled_like(tangent, image, (rows, columns), layout)


def _roi_gather_jvp(
    tangent_dot: Any, tangent: Any, image: Any, argmax: Any, **params: Any
) -> Any:
    del tangent
    return roi_gather_p.bind(tangent_dot, image, argmax, **params)


def _roi_gather_transpose(
    cotangent: Any, tangent: Any, image: Any, argmax: Any, *, layout: str
) -> Any:
    aval = tangent.aval
    if type(cotangent) is ad.Zero:
        return ad.Zero(aval), None, None
    rows, columns, _ = rows_columns_channels(aval.shape, layout)
    gradient = roi_scatter_p.bind(
        cotangent,
        image,
        argmax,
        group_ndim=aval.ndim - 4,
        map_size=(aval.shape[-4], rows, columns),
        layout=layout,
    )
    return gradient, None, None


roi_gather_p = _primitive("roi_gather", _roi_gather_shape)
ad.defjvp(roi_gather_p, _roi_gather_jvp, None, None)
ad.primitive_transposes[roi_gather_p] = _roi_gather_transpose
batching.fancy_primitive_batchers[roi_gather_p] = _batch_maps_over_rois(roi_gather_p)


# --- roi_scatter: (cotangent, image, argmax) -> gradient, its transpose ----


def _roi_scatter_shape(
    cotangent: Any,
    image: Any,
    argmax: Any,
    *,
    group_ndim: int,
    map_size: tuple[Any, Any, Any],
    layout: str,
) -> Any:
    del argmax
    images, rows, columns = map_size
    spec = tuple(cotangent.sharding.spec)
    *_, channels = rows_columns_channels(cotangent.shape, layout)
    *_, channels_spec = rows_columns_channels(spec, layout)
    return _array_like(
        "the gradient of features",
        cotangent,
        (
            *image.shape[:group_ndim],
            images,
            *_in_layout(rows, columns, channels, layout),
        ),
        cotangent.dtype,
        (
            *spec[:group_ndim],
            None,
            *_in_layout(None, None, channels_spec, layout),
        ),
    )


def _roi_scatter_jvp(
    cotangent_dot: Any, cotangent: Any, image: Any, argmax: Any, **params: Any
) -> Any:
    del cotangent
    return roi_scatter_p.bind(cotangent_dot, image, argmax, **params)


def _roi_scatter_transpose(
    tangent: Any, cotangent: Any, image: Any, argmax: Any, **params: Any
) -> Any:
    if type(tangent) is ad.Zero:
        return ad.Zero(cotangent.aval), None, None
    pooled = roi_gather_p.bind(tangent, image, argmax, layout=params["layout"])
    return pooled, None, None


def _roi_scatter_batch(
    axis_data: Any, args: Any, dims: Any, *, group_ndim: int, **params: Any
) -> tuple[Any, int | None]:
    if all(dim is None for dim in dims):
        return roi_scatter_p.bind(*args, group_ndim=group_ndim, **params), None
    args = [_move_to(axis_data, x, dim, 0) for x, dim in zip(args, dims, strict=True)]
    return roi_scatter_p.bind(*args, group_ndim=group_ndim + 1, **params), 0


roi_scatter_p = _primitive("roi_scatter", _roi_scatter_shape)
ad.defjvp(roi_scatter_p, _roi_scatter_jvp, None, None)
ad.primitive_transposes[roi_scatter_p] = _roi_scatter_transpose
batching.fancy_primitive_batchers[roi_scatter_p] = _roi_scatter_batch


# --- roi_scatter_sum: roi_scatter, and the sum over devices -----------------
#
# What a device calls on its shard where RoIs are sharded; no transformation sees
# it. A primitive, so that it is lowered on its own, whatever mesh is in force.


def _roi_scatter_sum_shape(*args: Any, sums: Any, **params: Any) -> Any:
    del sums
    return _roi_scatter_shape(*args, **params)


roi_scatter_sum_p = _primitive("roi_scatter_sum", _roi_scatter_sum_shape)
