"""Caffe's rule of bins in plain JAX: the twin of csrc/core/caffe_bins.h."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jax_roipool.plain import FlatRois, Pyramid, Size

_CELL_LIMIT = 2.0**24  # as kCellLimit there


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


@dataclasses.dataclass(frozen=True)
class Bins:
    """The cells of bins along one axis of RoIs: [K, P], from `begin` up to `end`."""

    begin: Array
    end: Array


def bins_of(
    boxes: Array,
    rois: FlatRois,
    pyramid: Pyramid,
    output_size: tuple[int, int],
    spatial_scale: tuple[tuple[float, float], ...],
) -> tuple[Bins, Bins]:
    """Rows and columns of RoIs with finite boxes [K, 4], each on its level."""

    def along(axis: int) -> Bins:
        low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
        bounds = [
            bin_bounds(low, high, scale[axis], output_size[axis], size[axis])
            for scale, size in zip(spatial_scale, pyramid.sizes, strict=True)
        ]
        begins, ends = zip(*bounds, strict=True)
        return Bins(rois.choose(begins), rois.choose(ends))

    return along(0), along(1)
