"""RoI max pooling (Girshick 2015) with Caffe's bins."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.interpreters import ad

from jax_roipool import arguments, forms, lowering, plain
from jax_roipool.arguments import ArrayLike, Features, Layout, Scales
from jax_roipool.geometry.caffe_bins import bins_of
from jax_roipool.ops import argmax as argmax_ops
from jax_roipool.primitive import Op, all_zero, zeros_of


def roi_pool(
    features: Features,
    rois: ArrayLike,
    output_size: int | tuple[int, int],
    spatial_scale: Scales = 1.0,
    *,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
    forward_mode: bool = False,
) -> Array:
    """Pools the maximum of each bin of each region of interest (RoI).

    RoI max pooling of Fast R-CNN (Girshick 2015, section 2.1), with the bins of
    Caffe's `ROIPooling` layer, bit for bit. A RoI is mapped onto the feature
    map, rounded to cells and divided into PH x PW bins, which may overlap by a
    cell; each bin gives its greatest feature, channel by channel.

    Three forms, told apart by rank (for `layout="NCHW"` the channels stand
    before the rows in `features` and in the result):

    ============== ================ =================== =======================
    features       rois             result              for
    ============== ================ =================== =======================
    [N, H, W, C]   [K, 5]           [K, PH, PW, C]      a list over all images
    [N, H, W, C]   [N, R, 4]        [N, R, PH, PW, C]   R RoIs for every image
    [H, W, C]      [R, 4]           [R, PH, PW, C]      one image, or `vmap`
    ============== ================ =================== =======================

    The levels of a feature pyramid are one call too: `features` is then a sequence of
    such maps, and each RoI reads the map of its level.

    Args:
      features: Feature maps; float16, bfloat16, float32 or float64. Or a sequence of
        them, the levels of a pyramid, which agree in all but H and W.
      rois: `(x1, y1, x2, y2)`, in the flat form `(image index, x1, y1, x2,
        y2)`; any real dtype. Corners are in pixels of the input image and
        inclusive: a box from 0 to 15 is 16 pixels wide. A reversed box counts
        as one cell long. Boxes are read as float32; a fraction of the image
        index is dropped. Half precision holds few coordinates exactly: keep
        boxes in float32 whatever the features are.
      output_size: Bins per RoI, `(PH, PW)` or one number for both. Static.
      spatial_scale: Cells of the feature map per pixel of the image,
        `(scale_h, scale_w)` or one number for both: 1/16 for a map 16 times
        smaller than the image. Static, rounded to float32. With several levels a
        sequence of scales, one for each.
      levels: int, one per RoI: the level that it reads, from 0. `None` means
        `fpn_levels(rois, len(features))`: by size, where strides are 4, 8, 16, ...
      valid: bool, one per RoI, for lists padded to a fixed length; `None` means
        all. A RoI that is not valid, whose image index is none of 0 ... N-1, whose
        level is none, or that has a number which is not finite, is empty: it gives
        zeros, takes no gradient and costs next to nothing. `valid_rois` tells which
        are not.
      layout: "NHWC" or "NCHW".
      forward_mode: Allows `jvp`, `jacfwd` and `linearize`, which JAX refuses for
        functions with a custom VJP; same numbers.

    Returns:
      The pooled features, in the dtype of `features`. An axis of a RoI is
      `round(x1 * scale)` to `round(x2 * scale)` in float32, halves away from
      zero, cut into bins of `length / P` cells, each widened to whole cells
      and clipped to the map. A bin outside the map gives 0. A NaN in a bin
      gives NaN.

    Gradient:
      Features get the cotangent at each bin's maximum (the first in row-major
      order where several are equal), summed in float32 or wider; with the
      compiled kernels to the same bits on every run. RoIs get zero: rounding
      has no useful derivative. Under `grad` the argmax is computed along and
      stored; the features are not.

    Raises:
      TypeError, ValueError: An argument has a wrong type, rank, shape or size,
        or a static one is traced. Values inside arrays never raise.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import roi_pool
      >>> features = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> rois = jnp.array([[0, 0.0, 0.0, 3.0, 3.0],   # image 0, all of it
      ...                   [0, 2.0, 2.0, 3.0, 3.0]])  # its last corner
      >>> roi_pool(features, rois, output_size=2)[..., 0]
      Array([[[ 5.,  7.],
              [13., 15.]],
      <BLANKLINE>
             [[10., 11.],
              [14., 15.]]], dtype=float32)
    """
    forward_mode = arguments.check_bool("forward_mode", forward_mode)
    call = arguments.check_call(
        features, rois, output_size, spatial_scale, levels, valid, layout
    )
    with _naming_forward_mode():
        return _roi_pool(*call, forward_mode)


def roi_pool_with_argmax(
    features: Features,
    rois: ArrayLike,
    output_size: int | tuple[int, int],
    spatial_scale: Scales = 1.0,
    *,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
    forward_mode: bool = False,
) -> tuple[Array, Array]:
    """`roi_pool`, and where each maximum was found.

    The argmax is computed and written even where only the first result is used;
    call `roi_pool` when the argmax is not wanted.

    Takes the arguments of `roi_pool`.

    Returns:
      `(pooled, argmax)`: `argmax` is int32, of the shape of `pooled`, and holds
      `h * W + w` of the maximum within its image and channel, or -1 for a bin
      without cells. The first of equal maxima in row-major order counts, a NaN
      counts as greater than all numbers, and a bin of nothing but `-inf` gives
      its first cell. Gradients flow through `pooled` as in `roi_pool`.

    Raises:
      TypeError, ValueError: As in `roi_pool`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import roi_pool_with_argmax
      >>> features = jnp.arange(16.0).reshape(4, 4, 1)   # one image
      >>> rois = jnp.array([[0.0, 0.0, 3.0, 3.0]])
      >>> pooled, argmax = roi_pool_with_argmax(features, rois, (1, 2))
      >>> argmax[0, 0, :, 0]                             # rows 3, columns 1, 3
      Array([13, 15], dtype=int32)
    """
    forward_mode = arguments.check_bool("forward_mode", forward_mode)
    call = arguments.check_call(
        features, rois, output_size, spatial_scale, levels, valid, layout
    )
    with _naming_forward_mode():
        return _roi_pool_with_argmax(*call, forward_mode)


@contextmanager
def _naming_forward_mode() -> Iterator[None]:
    """JAX's refusal of forward mode, with the way around it."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "roi_pool has a custom VJP, and JAX differentiates functions that have "
            "one in reverse alone: pass forward_mode=True for jvp, jacfwd, linearize "
            f"and hessian by jacfwd ({error})"
        ) from error


# --- The gradient ------------------------------------------------------------
#
# The primitives have derivatives of every kind. A custom_vjp in front of them
# fixes what reverse mode keeps, the argmax and the image indices, and costs
# forward mode, which `forward_mode=True` gives back by leaving it out.


@dataclasses.dataclass(frozen=True)
class _Static:
    """The parameters of pooling, and of its backward pass, as items of a dict."""

    pool: tuple[tuple[str, Any], ...]
    scatter: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, operands: tuple[Array, ...], config: arguments.Config) -> "_Static":
        params = dataclasses.asdict(config)
        sizes = POOL.all_sizes([x.shape for x in operands], params)
        scatter = argmax_ops.SCATTER.size_params(sizes)
        scatter["layout"] = config.layout
        return cls(tuple(params.items()), tuple(scatter.items()))


def _bind_pool(static: _Static, *operands: Array) -> Array:
    pooled: Array = POOL.bind(*operands, **dict(static.pool))
    return pooled


def _bind_pool_argmax(static: _Static, *operands: Array) -> tuple[Array, Array]:
    pooled, argmax = POOL_ARGMAX.bind(*operands, **dict(static.pool))
    return pooled, argmax


def _scatter(
    static: _Static, residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array | None, ...]:
    gradients = argmax_ops.SCATTER.bind(cotangent, *residuals, **dict(static.scatter))
    # None for boxes and the residuals but the argmax.
    return *gradients, *(None,) * len(residuals)


_pool = jax.custom_vjp(_bind_pool, nondiff_argnums=(0,))
_pool_argmax = jax.custom_vjp(_bind_pool_argmax, nondiff_argnums=(0,))


def _pool_argmax_forward(
    static: _Static, *operands: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    # Both kept: a policy that saves them by their name pools once.
    pooled, argmax = map(
        argmax_ops.keep_for_remat, _bind_pool_argmax(static, *operands)
    )
    _, (_, image_index), level = plain.split(operands, 2)
    residuals = (image_index, argmax)
    return (pooled, argmax), residuals if level is None else (*residuals, level)


def _pool_forward(static: _Static, *operands: Array) -> Any:
    (pooled, _), residuals = _pool_argmax_forward(static, *operands)
    return pooled, residuals


def _pool_argmax_backward(
    static: _Static, residuals: tuple[Array, ...], cotangents: Any
) -> tuple[Array | None, ...]:
    return _scatter(static, residuals, cotangents[0])


_pool.defvjp(_pool_forward, _scatter)
_pool_argmax.defvjp(_pool_argmax_forward, _pool_argmax_backward)


# --- One jit around it all ---------------------------------------------------
#
# Called outside jit, a reshape or an expand_dims copies its array, and a feature
# map is large. Inside jit they are free.


@partial(jax.jit, static_argnums=(1, 2))
def _roi_pool(
    arrays: arguments.Arrays, config: arguments.Config, forward_mode: bool
) -> Array:
    operands = forms.canonical(arrays, config.layout)
    pool = _bind_pool if forward_mode else _pool
    return pool(_Static.of(operands, config), *operands)


@partial(jax.jit, static_argnums=(1, 2))
def _roi_pool_with_argmax(
    arrays: arguments.Arrays, config: arguments.Config, forward_mode: bool
) -> tuple[Array, Array]:
    operands = forms.canonical(arrays, config.layout)
    pool = _bind_pool_argmax if forward_mode else _pool_argmax
    return pool(_Static.of(operands, config), *operands)


# --- In plain JAX ------------------------------------------------------------


def _plain_with_argmax(
    *operands: Array,
    output_size: tuple[int, int],
    spatial_scale: tuple[tuple[float, float], ...],
    layout: str,
) -> tuple[Array, Array]:
    """Pools and says from where, to the bits of the kernels.

    Cell by cell: step `s` looks at cell `s` of every bin at once, for as many
    steps as the largest bin has cells.
    """
    maps, (boxes, image_index), level = plain.split(operands, 2)
    number = plain.FloatFormat(maps[0].dtype)
    maps = [plain.channels_last(number.bits(x), layout) for x in maps]
    *group_shape, images, _, _, channels = maps[0].shape
    pyramid = plain.Pyramid.of_maps(maps)
    rois = plain.FlatRois.of(image_index, level, group_shape, images, len(maps))
    boxes = boxes.reshape(rois.count, 4)
    some = rois.some & jnp.isfinite(boxes).all(axis=-1)
    boxes = jnp.where(some[:, None], boxes, 0)
    rows, columns = bins_of(boxes, rois, pyramid, output_size, spatial_scale)
    # The bins of empty RoIs are empty.
    row_end = jnp.where(some[:, None], rows.end, rows.begin)
    most_rows = jnp.max(row_end - rows.begin, initial=0)
    most_columns = jnp.max(columns.end - columns.begin, initial=0)
    width = rois.choose([width for _, width in pyramid.sizes])
    begin = rois.choose(pyramid.begin)
    width, begin = (x[:, None, None] if jnp.ndim(x) else x for x in (width, begin))

    shape = (rois.count, *output_size, channels)
    best = jnp.full(shape, number.least)
    argmax = jnp.full(shape, -1, jnp.int32)
    flat = pyramid.flatten(maps)

    def step(s: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        best, argmax = carry
        row = rows.begin + s // most_columns
        column = columns.begin + s % most_columns
        inside = (row < row_end)[:, :, None] & (column < columns.end)[:, None, :]
        cell = row[:, :, None] * width + column[:, None, :]
        # Outside cells are clipped into the map, and masked.
        cells = flat.at[
            rois.group[:, None, None], rois.image[:, None, None], begin + cell
        ].get(mode="clip")
        key = number.key(cells)
        better = (key > best) & inside[..., None]
        return (
            jnp.where(better, key, best),
            jnp.where(better, cell[..., None], argmax),
        )

    if not plain.has_zero(flat.shape):
        best, argmax = lax.fori_loop(0, most_rows * most_columns, step, (best, argmax))
    # Key 0 is the value 0. Asking `best` and not `argmax` for the bins without
    # cells lets XLA drop the argmax where only `pooled` is used.
    pooled = number.value(jnp.where(best == number.least, 0, best))
    whole = (*image_index.shape, *output_size, channels)
    return (
        plain.to_layout(pooled.reshape(whole), layout),
        plain.to_layout(argmax.reshape(whole), layout),
    )


def _plain(*operands: Array, **params: Any) -> Array:
    """The same without the argmax, which XLA then drops."""
    return _plain_with_argmax(*operands, **params)[0]


# --- The records -------------------------------------------------------------


def _attributes(spatial_scale: Any, **params: Any) -> dict[str, Any]:
    return lowering.scale_attributes(spatial_scale)


def _example(dtype: str, layout: str) -> tuple[Any, dict[str, Any]]:
    """Features with ties and NaN; boxes in, around and outside of two images."""
    rng = np.random.default_rng(0)
    features = rng.integers(-9, 10, (2, 19, 31, 37)).astype(np.float32)
    features[rng.random(features.shape) < 0.01] = np.nan
    boxes = rng.uniform(-40, 560, (60, 4)).astype(np.float32)
    image_index = rng.integers(-1, 3, 60).astype(np.int32)
    maps = plain.to_layout(jnp.asarray(features, dtype), layout)
    params = {"output_size": (7, 5), "spatial_scale": ((1 / 16, 1 / 20),)}
    return (maps, boxes, image_index), {**params, "layout": layout}


POOL = lowering.register(
    Op(
        "roi_pool",
        "*G N H W C, G K 4, G K, ?G K -> G K P Q C",
        plain=_plain,
        sizes={"output_size": "P Q"},
        attributes=_attributes,
        example=_example,
    )
)

POOL_ARGMAX = lowering.register(
    Op(
        "roi_pool_argmax",
        "*G N H W C, G K 4, G K, ?G K -> G K P Q C, G K P Q C",
        plain=_plain_with_argmax,
        sizes={"output_size": "P Q"},
        dtypes=(None, jnp.int32),
        attributes=_attributes,
        example=_example,
    )
)


def _jvp_with_argmax(primals: Any, tangents: Any, **params: Any) -> Any:
    pooled, argmax = map(
        argmax_ops.keep_for_remat, POOL_ARGMAX.bind(*primals, **params)
    )
    maps, (_, image_index), level = plain.split(primals, 2)
    tangents = tangents[: len(maps)]
    if all_zero(tangents):
        return (pooled, argmax), (zeros_of(pooled), zeros_of(argmax))
    tangents = map(ad.instantiate_zeros, tangents)
    levels = () if level is None else (level,)
    tangent = argmax_ops.GATHER.bind(
        *tangents, image_index, argmax, *levels, layout=params["layout"]
    )
    return (pooled, argmax), (tangent, zeros_of(argmax))


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    if all_zero(tangents[: len(params["spatial_scale"])]):
        pooled = POOL.bind(*primals, **params)
        return pooled, zeros_of(pooled)
    (pooled, _), (tangent, _) = _jvp_with_argmax(primals, tangents, **params)
    return pooled, tangent


ad.primitive_jvps[POOL.primitive] = _jvp
ad.primitive_jvps[POOL_ARGMAX.primitive] = _jvp_with_argmax
