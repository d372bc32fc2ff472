"""Bands in plain JAX: pair after pair of taps, which XLA fuses, with bounded memory."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array, lax

from jax_roipool import plain


class Band(Protocol):
    """One axis of RoIs [K]: a few taps for each of P bins."""

    @property
    def taps(self) -> int | Array:
        """How many taps any bin has."""

    def tap(self, number: int | Array) -> tuple[Array, Array]:
        """int32 [K, P], a cell of the map; [K, P], its weight, 0 for none."""

    def slopes(self, number: int | Array) -> tuple[Array, Array]:
        """[K, P], the derivatives of that weight along a box's two coordinates."""


# (boxes [K, 4], RoIs, their maps, rows and columns of bins, the op's own parameters) to
# the bands of rows and of columns. Boxes are finite.
MakeBands = Callable[..., tuple[Band, Band]]

# Taps that are compiled one after another where XLA fuses them: a loop stores its sums
# after each. What gathers no maps, or is seldom run, is not worth the compilation.
_MAX_UNROLLED = 64


@dataclasses.dataclass(frozen=True)
class _Call:
    """The bands of a call, and what they run over."""

    rows: Band
    columns: Band
    rois: plain.FlatRois
    pyramid: plain.Pyramid

    @classmethod
    def of(
        cls,
        make: MakeBands,
        boxes: Array,
        rois: plain.FlatRois,
        pyramid: plain.Pyramid,
        bins: tuple[int, int],
        params: dict[str, Any],
    ) -> "_Call":
        boxes = boxes.reshape(rois.count, 4)
        some = rois.some & jnp.isfinite(boxes).all(axis=-1)
        boxes = jnp.where(some[:, None], boxes, 0)
        rois = dataclasses.replace(rois, some=some)
        rows, columns = make(boxes, rois, pyramid, bins, **params)
        return cls(rows, columns, rois, pyramid)

    def loop(
        self,
        directions: Sequence[Array],
        body: Callable[..., Any],
        state: Any,
        slopes: bool = False,
        unrolled: bool = False,
    ) -> Any:
        """`body(state, where, weights)` for each pair of taps, of rows and of columns.

        `where` are indices into [G, N, cells], [K, P, Q] of them. The weight is one
        [K, P, Q], along so many directions; with `slopes` four, of which one direction
        more is left out, for x1, y1, x2 and y2.
        """
        rows, columns, rois = self.rows, self.columns, self.rois
        directions = [x.reshape(rois.count, 4, 1) for x in directions]
        begin = rois.choose(self.pyramid.begin)
        width = rois.choose([width for _, width in self.pyramid.sizes])
        begin, width = (x[:, None, None] if jnp.ndim(x) else x for x in (begin, width))

        def across(row: Array, column: Array) -> Array:
            weight: Array = row[:, :, None] * column[:, None, :]
            return jnp.where(rois.some[:, None, None], weight, 0)

        def step(number: int | Array, state: Any) -> Any:
            i, j = number // columns.taps, number % columns.taps
            (row, a), (column, b) = rows.tap(i), columns.tap(j)
            cell = begin + row[:, :, None] * width + column[:, None, :]
            where = (rois.group[:, None, None], rois.image[:, None, None], cell)
            if not directions and not slopes:
                return body(state, where, [across(a, b)])
            (a1, a2), (b1, b2) = rows.slopes(i), columns.slopes(j)
            # The same, along each direction.
            along = [
                (d[:, 1] * a1 + d[:, 3] * a2, d[:, 0] * b1 + d[:, 2] * b2)
                for d in directions
            ]
            if not slopes:
                *_, (a, b) = [(a, b), *along[1:]]
                da, db = along[0]
                weights = [across(da, b) + across(a, db)]
            else:
                *_, (a, b) = [(a, b), *along]
                weights = [across(*x) for x in ((a, b1), (a1, b), (a, b2), (a2, b))]
            return body(state, where, weights)

        count = rows.taps * columns.taps
        if unrolled and isinstance(count, int) and count <= _MAX_UNROLLED:
            for number in range(count):
                state = step(number, state)
            return state
        return lax.fori_loop(0, count, step, state)


def _sum_dtype(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _weighed(x: Array, weight: Array) -> Array:
    """[K, P, Q, C] times [K, P, Q]; a weight of 0 never meets a NaN."""
    weight = weight[..., None]
    return jnp.where(weight != 0, x, 0) * weight.astype(x.dtype)


def apply(
    make: MakeBands,
    order: int,
    *operands: Array,
    output_size: tuple[int, int],
    layout: str,
    **params: Any,
) -> Array:
    """[*G, *K, P, Q, C]: maps under the weights, along `order` directions."""
    maps, (*directions, boxes, image_index), level = plain.split(operands, order + 2)
    dtype = maps[0].dtype
    maps = [plain.channels_last(x, layout) for x in maps]
    *group_shape, images, _, _, channels = maps[0].shape
    shape = (*image_index.shape, *output_size, channels)
    pyramid = plain.Pyramid.of_maps(maps)
    flat = pyramid.flatten(maps)
    total = jnp.zeros((math.prod(image_index.shape), *output_size, channels))
    total = total.astype(_sum_dtype(dtype))
    if not plain.has_zero(flat.shape) and not plain.has_zero(image_index.shape):
        rois = plain.FlatRois.of(image_index, level, group_shape, images, len(maps))
        call = _Call.of(make, boxes, rois, pyramid, output_size, params)

        def add(total: Array, where: Any, weights: Any) -> Array:
            cells = flat.at[where].get(mode="clip").astype(total.dtype)
            return total + _weighed(cells, weights[0])

        total = call.loop(directions, add, total, unrolled=not directions)
    return plain.to_layout(total.astype(dtype).reshape(shape), layout)


def transpose(
    make: MakeBands,
    order: int,
    cotangent: Array,
    *operands: Array,
    group_ndim: int,
    map_size: tuple[Any, ...],
    layout: str,
    **params: Any,
) -> list[Array]:
    """The maps of every level that the cotangent gives under the same weights."""
    *directions, boxes, image_index = operands[: order + 2]
    level = operands[order + 2] if len(operands) > order + 2 else None
    dtype = cotangent.dtype
    cotangent = plain.channels_last(cotangent, layout)
    *bins, channels = cotangent.shape[-3:]
    images, pyramid = plain.Pyramid.of_sizes(map_size)
    group_shape = image_index.shape[:group_ndim]
    shape = (math.prod(group_shape), images, pyramid.cells, channels)
    sums = jnp.zeros(shape, _sum_dtype(dtype))
    if not plain.has_zero(shape) and not plain.has_zero(image_index.shape):
        levels = len(pyramid.sizes)
        rois = plain.FlatRois.of(image_index, level, group_shape, images, levels)
        call = _Call.of(make, boxes, rois, pyramid, (bins[0], bins[1]), params)
        flat = cotangent.reshape(rois.count, *bins, channels).astype(sums.dtype)

        def add(sums: Array, where: Any, weights: Any) -> Array:
            return sums.at[where].add(_weighed(flat, weights[0]), mode="drop")

        sums = call.loop(directions, add, sums)
    gradients = pyramid.unflatten(sums.astype(dtype), group_shape)
    return [plain.to_layout(x, layout) for x in gradients]


def box_gradient(
    make: MakeBands, order: int, *operands: Array, layout: str, **params: Any
) -> Array:
    """[*G, *K, 4]: what the cotangent gives of a direction that is left out."""
    maps, rest, level = plain.split(operands, order + 2)
    cotangent, *directions, boxes, image_index = rest
    maps = [plain.channels_last(x, layout) for x in maps]
    cotangent = plain.channels_last(cotangent, layout)
    *group_shape, images, _, _, channels = maps[0].shape
    *bins, _ = cotangent.shape[-3:]
    pyramid = plain.Pyramid.of_maps(maps)
    flat = pyramid.flatten(maps)
    wide = jnp.promote_types(_sum_dtype(cotangent.dtype), boxes.dtype)
    sums = (jnp.zeros(math.prod(image_index.shape), wide),) * 4
    if not plain.has_zero(flat.shape) and not plain.has_zero(image_index.shape):
        rois = plain.FlatRois.of(image_index, level, group_shape, images, len(maps))
        call = _Call.of(make, boxes, rois, pyramid, (bins[0], bins[1]), params)
        pulled = cotangent.reshape(rois.count, *bins, channels).astype(wide)

        def add(sums: Any, where: Any, weights: Any) -> Any:
            cells = flat.at[where].get(mode="clip").astype(wide)
            product = (cells * pulled).sum(axis=-1, keepdims=True)
            return tuple(
                total + _weighed(product, weight).sum(axis=(1, 2, 3))
                for total, weight in zip(sums, weights, strict=True)
            )

        sums = call.loop(directions, add, sums, slopes=True)
    gradient: Array = jnp.stack(sums, axis=-1).astype(boxes.dtype)
    return gradient.reshape(boxes.shape)
