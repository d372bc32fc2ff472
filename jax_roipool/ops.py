"""The public functions: checks, the three forms made one, and the gradient."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import arguments, lowering, partitioning, primitive

del lowering  # imported for what it registers


def roi_pool(
    features: Any,
    rois: Any,
    output_size: int | tuple[int, int],
    spatial_scale: float | tuple[float, float] = 1.0,
    *,
    valid: Any = None,
    layout: arguments.Layout = "NHWC",
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

    Args:
      features: Feature maps; float16, bfloat16, float32 or float64.
      rois: `(x1, y1, x2, y2)`, in the flat form `(image index, x1, y1, x2,
        y2)`; any real dtype. Corners are in pixels of the input image and
        inclusive: a box from 0 to 15 is 16 pixels wide. A reversed box counts
        as one cell long. Boxes are read as float32; a fraction of the image
        index is dropped. Half precision holds few coordinates exactly: keep
        boxes in float32 whatever the features are.
      output_size: Bins per RoI, `(PH, PW)` or one number for both. Static.
      spatial_scale: Cells of the feature map per pixel of the image,
        `(scale_h, scale_w)` or one number for both: 1/16 for a map 16 times
        smaller than the image. Static, rounded to float32.
      valid: bool, one per RoI, for lists padded to a fixed length; `None` means
        all. A RoI that is not valid, whose image index is none of 0 ... N-1, or
        that has a number which is not finite, is empty: it gives zeros, takes no
        gradient and costs next to nothing. `valid_rois` tells which are not.
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
    config = arguments.check_config(output_size, spatial_scale, layout)
    forward_mode = arguments.check_forward_mode(forward_mode)
    features, rois, valid = arguments.check_arrays(features, rois, valid, layout)
    return _roi_pool(features, rois, valid, config, forward_mode)


def roi_pool_with_argmax(
    features: Any,
    rois: Any,
    output_size: int | tuple[int, int],
    spatial_scale: float | tuple[float, float] = 1.0,
    *,
    valid: Any = None,
    layout: arguments.Layout = "NHWC",
    forward_mode: bool = False,
) -> tuple[Array, Array]:
    """`roi_pool`, and where each maximum was found.

    The argmax is computed and written even where only the first result is used;
    call `roi_pool` when the argmax is not wanted.

    Args:
      features: As in `roi_pool`, like all other arguments.
      rois: See there.
      output_size: See there.
      spatial_scale: See there.
      valid: See there.
      layout: See there.
      forward_mode: See there.

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
    config = arguments.check_config(output_size, spatial_scale, layout)
    forward_mode = arguments.check_forward_mode(forward_mode)
    features, rois, valid = arguments.check_arrays(features, rois, valid, layout)
    return _roi_pool_with_argmax(features, rois, valid, config, forward_mode)


def valid_rois(
    features: Any,
    rois: Any,
    *,
    valid: Any = None,
    layout: arguments.Layout = "NHWC",
) -> Array:
    """Which RoIs are not empty.

    A RoI is empty where `valid` says so, where its image index is none of
    0 ... N-1, or where one of its numbers is not finite (after boxes became
    float32). A box outside the image or a reversed one is not empty in this
    sense.

    Args:
      features: As in `roi_pool`; only the shape matters.
      rois: As in `roi_pool`.
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
    features, rois, valid = arguments.check_arrays(features, rois, valid, layout)
    return _valid_rois(rois, valid, features.shape[0])


# --- Three forms, one canonical form ---------------------------------------


def _image_index(index: Array, images: Any) -> Array:
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


def _boxes_and_image(
    rois: Array, valid: Array | None, images: Any
) -> tuple[Array, Array]:
    """Boxes as float32, and the image index of each, -1 where it is empty."""
    boxes = rois[..., -4:].astype(jnp.float32)
    if rois.shape[-1] == 5:
        image = _image_index(rois[..., 0], images)
    else:
        image = jnp.zeros_like(boxes[..., 0], dtype=jnp.int32)
    image = jnp.where(jnp.isfinite(boxes).all(axis=-1), image, -1)
    if valid is not None:
        image = jnp.where(valid, image, -1)
    return boxes, image


def _canonical(
    features: Array, rois: Array, valid: Array | None, layout: arguments.Layout
) -> tuple[Array, Array, Array]:
    """Features, boxes and image indices as the primitives want them."""
    rois = jax.lax.stop_gradient(rois)
    features, rois, valid = partitioning.reshard_operands(features, rois, valid, layout)
    boxes, image = _boxes_and_image(rois, valid, features.shape[0])
    if features.ndim == 4 and rois.ndim == 3:
        features = jnp.expand_dims(features, 1)  # each image a group
    elif features.ndim == 3:
        features = jnp.expand_dims(features, 0)
    return partitioning.match_varying_axes(features, boxes, image)


# --- The gradient ----------------------------------------------------------
#
# The primitives have derivatives of every kind. A custom_vjp in front of them
# fixes what reverse mode keeps, the argmax and the image indices, and costs
# forward mode, which `forward_mode=True` gives back by leaving it out.


@dataclasses.dataclass(frozen=True)
class _Static:
    """What the backward pass must know and the residuals do not tell."""

    config: arguments.Config
    group_ndim: int
    map_size: tuple[Any, Any, Any]  # images, rows, columns

    @classmethod
    def of(cls, features: Array, config: arguments.Config) -> "_Static":
        rows, columns, _ = primitive.rows_columns_channels(
            features.shape, config.layout
        )
        return cls(config, features.ndim - 4, (features.shape[-4], rows, columns))


def _bind_pool(static: _Static, features: Array, boxes: Array, image: Array) -> Array:
    return primitive.roi_pool_p.bind(
        features, boxes, image, **dataclasses.asdict(static.config)
    )


def _bind_pool_argmax(
    static: _Static, features: Array, boxes: Array, image: Array
) -> tuple[Array, Array]:
    pooled, argmax = primitive.roi_pool_argmax_p.bind(
        features, boxes, image, **dataclasses.asdict(static.config)
    )
    return pooled, argmax


def _scatter(
    static: _Static, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None, None]:
    image, argmax = residuals
    gradient = primitive.roi_scatter_p.bind(
        cotangent,
        image,
        argmax,
        group_ndim=static.group_ndim,
        map_size=static.map_size,
        layout=static.config.layout,
    )
    return gradient, None, None


_pool = jax.custom_vjp(_bind_pool, nondiff_argnums=(0,))
_pool_argmax = jax.custom_vjp(_bind_pool_argmax, nondiff_argnums=(0,))


def _pool_forward(
    static: _Static, features: Array, boxes: Array, image: Array
) -> tuple[Array, tuple[Array, Array]]:
    pooled, argmax = _bind_pool_argmax(static, features, boxes, image)
    return pooled, (image, primitive.named(argmax))


def _pool_argmax_forward(
    static: _Static, features: Array, boxes: Array, image: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    pooled, argmax = _bind_pool_argmax(static, features, boxes, image)
    argmax = primitive.named(argmax)
    return (pooled, argmax), (image, argmax)


def _pool_argmax_backward(
    static: _Static, residuals: tuple[Array, Array], cotangents: Any
) -> tuple[Array, None, None]:
    return _scatter(static, residuals, cotangents[0])


_pool.defvjp(_pool_forward, _scatter)
_pool_argmax.defvjp(_pool_argmax_forward, _pool_argmax_backward)


# --- One jit around it all -------------------------------------------------
#
# Called outside jit, a reshape or an expand_dims copies its array, and a feature
# map is large. Inside jit they are free.


@partial(jax.jit, static_argnums=(3, 4))
def _roi_pool(
    features: Array,
    rois: Array,
    valid: Array | None,
    config: arguments.Config,
    forward_mode: bool,
) -> Array:
    features, boxes, image = _canonical(features, rois, valid, config.layout)
    pool = _bind_pool if forward_mode else _pool
    return pool(_Static.of(features, config), features, boxes, image)


@partial(jax.jit, static_argnums=(3, 4))
def _roi_pool_with_argmax(
    features: Array,
    rois: Array,
    valid: Array | None,
    config: arguments.Config,
    forward_mode: bool,
) -> tuple[Array, Array]:
    features, boxes, image = _canonical(features, rois, valid, config.layout)
    pool = _bind_pool_argmax if forward_mode else _pool_argmax
    return pool(_Static.of(features, config), features, boxes, image)


@partial(jax.jit, static_argnums=(2,))
def _valid_rois(rois: Array, valid: Array | None, images: Any) -> Array:
    # The layout says where channels are, which these arrays have not.
    _, rois, valid = partitioning.reshard_operands(None, rois, valid, "NHWC")
    return _boxes_and_image(rois, valid, images)[1] >= 0
