"""RoI pooling in plain JAX: the lowering of every platform without kernels.

The functions here take the canonical shapes of `primitive.py` and return, bit
for bit, what the kernels return. They hold no temporary larger than a few
copies of the result (and of the feature map), whatever the boxes are.

`bin_bounds` is the twin of `csrc/core/caffe_bins.h`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

# A dimension: an int, or a symbolic one under `jax.export`.
Size = Any

_CELL_LIMIT = 2.0**24  # as kCellLimit in csrc/core/caffe_bins.h


def _divide(length: Array, divisor: int | Array) -> Array:
    """`length / divisor` for positive int32, as a correctly rounded float32.

    By long division. XLA turns a division by a constant into a product with
    its reciprocal, and GPUs divide float32 approximately; both are off by a
    last digit often enough to move bins (7 bins, length 29).
    """
    length = length.astype(jnp.float32).astype(jnp.int32)  # above 2**24
    bits_more = lax.clz(jnp.full_like(length, divisor)) - lax.clz(length)
    dividend = length << jnp.maximum(-bits_more, 0)
    divisor_ = jnp.full_like(length, divisor) << jnp.maximum(bits_more, 0)
    # Equally many bits; a dividend still below the divisor moves once more.
    below = (dividend < divisor_).astype(jnp.int32)
    dividend, exponent = dividend << below, bits_more - below

    def next_bit(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mantissa, rest = carry
        rest = rest << 1
        bit = (rest >= divisor_).astype(jnp.int32)
        return (mantissa << 1) + bit, rest - bit * divisor_

    mantissa, rest = lax.fori_loop(
        0, 23, next_bit, (jnp.ones_like(length), dividend - divisor_)
    )
    half = 2 * rest - divisor_
    up = (half > 0) | ((half == 0) & (mantissa % 2 == 1))
    mantissa = mantissa + up.astype(jnp.int32)
    # Exact: a 24-bit number times a power of two, made from its exponent bits.
    power = lax.bitcast_convert_type((exponent - 23 + 127) << 23, jnp.float32)
    return mantissa.astype(jnp.float32) * power


def _cell(coordinate: Array, scale: float) -> Array:
    """The cell of a finite coordinate: half away from zero, as C's `round`."""
    # XLA on CPU reads subnormal numbers as zero, so a tiny scale is made larger
    # first; where taking that back underflows, the cell is 0 anyway.
    shift = 2.0**64 if scale < 2.0**-60 else 1.0
    scaled = coordinate * jnp.float32(scale * shift)
    # The clamp stands where it keeps a compiler from merging the two factors, and
    # from fusing a product with the difference below.
    limit = _CELL_LIMIT * shift
    scaled = jnp.clip(scaled, -limit, limit) * jnp.float32(1 / shift)
    whole = scaled.astype(jnp.int32)  # towards zero
    rest = scaled - whole.astype(jnp.float32)  # exact
    return whole + (rest >= 0.5).astype(jnp.int32) - (rest <= -0.5).astype(jnp.int32)


def bin_bounds(
    low: Array, high: Array, scale: float, num_bins: int, extent: Size
) -> tuple[Array, Array]:
    """Cells of the bins along one axis of boxes.

    Args:
      low: Finite float32 corners of any shape, in input-image pixels.
      high: The opposite corners, inclusive.
      scale: Cells per pixel.
      num_bins: Bins along the axis.
      extent: Cells of the feature map along the axis.

    Returns:
      int32 `(begin, end)` with an axis of `num_bins` appended: bin `p` covers
      the cells `begin[..., p]` up to but not including `end[..., p]`.
    """
    first = _cell(low, scale)
    length = jnp.maximum(_cell(high, scale) - first + 1, 1)
    size = _divide(length, num_bins)[..., None]
    index = jnp.arange(num_bins + 1, dtype=jnp.float32)
    begin = jnp.floor(index[:-1] * size).astype(jnp.int32)
    end = jnp.ceil(index[1:] * size).astype(jnp.int32)
    first = first[..., None]
    return (
        jnp.clip(first + begin, 0, extent),
        jnp.clip(first + end, 0, extent),
    )


# Floats are compared by integer keys in the order that pooling wants: +0 equals
# -0, and a NaN is greater than all numbers and equal to every NaN. From the
# first line on they are handled as the integers of their bits, because XLA on
# CPU flushes subnormal floats to zero, even where it only moves half precision.


class _FloatFormat:
    """A float dtype as integers of its width."""

    def __init__(self, dtype: Any) -> None:
        info = jnp.finfo(dtype)
        self.dtype = dtype
        self.integer = {16: jnp.int16, 32: jnp.int32, 64: jnp.int64}[info.bits]
        self.greatest = self.integer(2 ** (info.bits - 1) - 1)
        self.least = self.integer(-(2 ** (info.bits - 1)))
        self.infinity = self.integer((2**info.nexp - 1) << info.nmant)

    def bits(self, x: Array) -> Array:
        return lax.bitcast_convert_type(x, self.integer)

    def key(self, bits: Array) -> Array:
        """Above `least`, whatever the float."""
        magnitude = bits & self.greatest
        key = jnp.where(bits < 0, -magnitude, magnitude)
        return jnp.where(magnitude > self.infinity, self.greatest, key)

    def value(self, key: Array) -> Array:
        bits = jnp.where(key < 0, -key | self.least, key)
        return lax.bitcast_convert_type(bits, self.dtype)


def _channels_last(x: Array, layout: str) -> Array:
    return jnp.moveaxis(x, -3, -1) if layout == "NCHW" else x


def _to_layout(x: Array, layout: str) -> Array:
    return jnp.moveaxis(x, -1, -3) if layout == "NCHW" else x


def _flat_indices(
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


def roi_pool_argmax(
    features: Array,
    boxes: Array,
    image: Array,
    *,
    output_size: tuple[int, int],
    spatial_scale: tuple[float, float],
    layout: str,
) -> tuple[Array, Array]:
    """Pools and says from where; see `primitive.py` for the shapes.

    Cell by cell: step `s` looks at cell `s` of every bin at once, for as many
    steps as the largest bin has cells.
    """
    number = _FloatFormat(features.dtype)
    features = _channels_last(number.bits(features), layout)
    *group_shape, images, height, width, channels = features.shape
    group, index, valid = _flat_indices(image, group_shape, images)
    features = features.reshape(math.prod(group_shape), images, height, width, channels)
    boxes = boxes.reshape(*group.shape, 4)
    valid &= jnp.isfinite(boxes).all(axis=-1)
    boxes = jnp.where(valid[:, None], boxes, 0)
    row_begin, row_end = bin_bounds(
        boxes[:, 1], boxes[:, 3], spatial_scale[0], output_size[0], height
    )
    column_begin, column_end = bin_bounds(
        boxes[:, 0], boxes[:, 2], spatial_scale[1], output_size[1], width
    )
    # The bins of empty RoIs are empty.
    row_end = jnp.where(valid[:, None], row_end, row_begin)
    most_rows = jnp.max(row_end - row_begin, initial=0)
    most_columns = jnp.max(column_end - column_begin, initial=0)

    shape = (*group.shape, *output_size, channels)
    best = jnp.full(shape, number.least)
    argmax = jnp.full(shape, -1, jnp.int32)

    def step(s: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        best, argmax = carry
        row = row_begin + s // most_columns
        column = column_begin + s % most_columns
        inside = (row < row_end)[:, :, None] & (column < column_end)[:, None, :]
        row, column = row[:, :, None], column[:, None, :]
        # Outside cells are clipped into the map, and masked.
        cells = features.at[
            group[:, None, None], index[:, None, None], row, column
        ].get(mode="clip")
        key = number.key(cells)
        better = (key > best) & inside[..., None]
        cell = (row * width + column)[..., None]
        return jnp.where(better, key, best), jnp.where(better, cell, argmax)

    if not _has_zero(features.shape):
        best, argmax = lax.fori_loop(0, most_rows * most_columns, step, (best, argmax))
    # Key 0 is the value 0. Asking `best` and not `argmax` for the bins without
    # cells lets XLA drop the argmax where only `pooled` is used.
    pooled = number.value(jnp.where(best == number.least, 0, best))
    shape = (*image.shape, *output_size, channels)
    return (
        _to_layout(pooled.reshape(shape), layout),
        _to_layout(argmax.reshape(shape), layout),
    )


def roi_pool(features: Array, boxes: Array, image: Array, **params: Any) -> Array:
    """`roi_pool_argmax` without the argmax, which XLA then drops."""
    return roi_pool_argmax(features, boxes, image, **params)[0]


def roi_gather(tangent: Array, image: Array, argmax: Array, *, layout: str) -> Array:
    """The tangent at the stored argmax, 0 where that names no cell."""
    if _has_zero(tangent.shape):  # nothing that JAX could take slices of
        return jnp.zeros(argmax.shape, tangent.dtype)
    tangent = _channels_last(tangent, layout)
    *group_shape, images, height, width, channels = tangent.shape
    where = _coordinates(image, argmax, group_shape, images, height * width, layout)
    flat = tangent.reshape(math.prod(group_shape), images, height * width, channels)
    pooled = flat.at[where].get(mode="fill", fill_value=0)
    return _to_layout(pooled.reshape(*image.shape, *pooled.shape[1:]), layout)


def roi_scatter(
    cotangent: Array,
    image: Array,
    argmax: Array,
    *,
    group_ndim: int,
    map_size: tuple[Size, Size, Size],
    layout: str,
) -> Array:
    """The cotangent added up at the stored argmax, in float32 or wider."""
    dtype = cotangent.dtype
    cotangent = _channels_last(cotangent, layout)
    images, height, width = map_size
    channels = cotangent.shape[-1]
    group_shape = image.shape[:group_ndim]
    where = _coordinates(image, argmax, group_shape, images, height * width, layout)
    wide = jnp.promote_types(dtype, jnp.float32)
    sums = jnp.zeros((math.prod(group_shape), images, height * width, channels), wide)
    sums = sums.at[where].add(
        cotangent.reshape(where[2].shape).astype(wide),
        mode="drop",
    )
    gradient = sums.astype(dtype).reshape(*group_shape, images, height, width, channels)
    return _to_layout(gradient, layout)


def _coordinates(
    image: Array,
    argmax: Array,
    group_shape: Sequence[Size],
    images: Size,
    cells: Size,
    layout: str,
) -> tuple[Array, Array, Array, Array]:
    """Indices (group, image, cell, channel) of every pooled value.

    An argmax that names no cell of an image becomes `cells`, out of bounds.
    """
    argmax = _channels_last(argmax, layout)
    group, index, valid = _flat_indices(image, group_shape, images)
    argmax = argmax.reshape(*group.shape, *argmax.shape[-3:])
    valid = valid[:, None, None, None] & (argmax >= 0) & (argmax < cells)
    return (
        group[:, None, None, None],
        index[:, None, None, None],
        jnp.where(valid, argmax, cells),
        jnp.arange(argmax.shape[-1], dtype=jnp.int32),
    )


def _has_zero(shape: Sequence[Size]) -> bool:
    return any(isinstance(size, int) and size == 0 for size in shape)
