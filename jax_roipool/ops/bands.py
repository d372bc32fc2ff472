"""Linear ops that are separable: one RoI is `rows . map . columns`.

A band says, for each bin along an axis, which few cells it reads with which weights.
Average pooling, RoIAlign and their like differ in what makes their bands alone: here
is what applies two bands to a map, and every derivative of that.

With A(b) for the weights that boxes b make, all of it is one form, linear in each of
its arguments but b:

    <cotangent, A(b) maps>                           order 0
    <cotangent, (A'(b) . direction) maps>            order 1: along a change of boxes
    <cotangent, (A''(b) . direction, direction) maps>     order 2

An op is the derivative of a form along one of its arguments: along the cotangent it
is the op itself, along the maps its transpose, along a direction the gradient of boxes.
Its own derivatives therefore are such ops again: another argument in the place of the
one that changes, or one order more where boxes change. Weights are piecewise linear
along each axis: the third derivative is 0.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.interpreters import ad

from jax_roipool import forms, lowering, plain
from jax_roipool.arguments import Arrays, Config
from jax_roipool.primitive import Op, all_zero, zeros_of


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

# Parameters that are not an op's own.
_SHARED = ("output_size", "group_ndim", "map_size", "layout")


# --- In plain JAX ------------------------------------------------------------


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


def _apply(
    make: MakeBands,
    order: int,
    *operands: Array,
    output_size: tuple[int, int],
    layout: str,
    **params: Any,
) -> Array:
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


def _spread(
    make: MakeBands,
    order: int,
    cotangent: Array,
    *operands: Array,
    group_ndim: int,
    map_size: tuple[Any, ...],
    layout: str,
    **params: Any,
) -> list[Array]:
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


def _box_gradient(
    make: MakeBands, order: int, *operands: Array, layout: str, **params: Any
) -> Array:
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


# --- The ops of a form, and their derivatives --------------------------------

_MAPS, _POOLED, _DIRECTION = "*G N H W C", "G K P Q C", "G K 4"
_BOXES = "G K 4, G K, ?G K"
_MAX_ORDER = 2


@dataclasses.dataclass(frozen=True)
class _Arguments:
    """The arguments of a form; None for the one along which an op derives.

    What tells a direction that is left out is that both others are there.
    """

    maps: tuple[Any, ...] | None
    pooled: Any
    directions: tuple[Any, ...]


class Family:
    """The ops of a separable op's forms.

    Attributes:
      ops: By order, and by what the result is: "pooled", "maps" or "boxes".
    """

    def __init__(
        self,
        name: str,
        make: MakeBands,
        attributes: Callable[..., dict[str, Any]],
        example: dict[str, Any],
        *,
        inclusive: bool = False,
        box_gradient: bool = False,
    ) -> None:
        """Registers the ops.

        Args:
          name: Of the op.
          make: Its bands; of what has gradients of boxes, with `slopes`.
          attributes: From its own parameters to those of its custom calls.
          example: Parameters for the self-check, by which weights are powers of two
            where bins are one or two times 4 pixels long.
          inclusive: Whether the pixel at a box's far corner is part of it.
          box_gradient: Whether boxes have derivatives.
        """
        self._name, self._make = name, make
        self._attributes, self._params = attributes, example
        self._inclusive = inclusive
        self.ops: dict[tuple[int, str], Op] = {}
        for order in range(_MAX_ORDER + 1 if box_gradient else 1):
            along = ["", "_along_boxes", "_along_boxes_twice"][order]
            directions = f"{_DIRECTION}, " * order
            self._add(
                order, "pooled", along, f"{_MAPS}, {directions}{_BOXES} -> {_POOLED}"
            )
            self._add(
                order,
                "maps",
                f"{along}_transpose",
                f"{_POOLED}, {directions}{_BOXES} -> {_MAPS}",
            )
            if order:
                directions = f"{_DIRECTION}, " * (order - 1)
                self._add(
                    order,
                    "boxes",
                    ["", "_box_gradient", "_box_gradient_along_boxes"][order],
                    f"{_MAPS}, {_POOLED}, {directions}{_BOXES} -> {_DIRECTION}",
                )

    def bind(self, *operands: Any, **params: Any) -> Array:
        """The op itself."""
        pooled: Array = self.ops[0, "pooled"].bind(*operands, **params)
        return pooled

    def _add(self, order: int, result: str, suffix: str, signature: str) -> None:
        functions = {"pooled": _apply, "maps": _spread, "boxes": _box_gradient}
        function: Any = functions[result]

        def plain_(*operands: Array, **params: Any) -> Any:
            return function(self._make, order, *operands, **params)

        def attributes(**params: Any) -> dict[str, Any]:
            own = {k: v for k, v in params.items() if k not in _SHARED}
            return self._attributes(**own)

        def workspace(operands: Any, results: Any, params: Any) -> list[Any]:
            own = attributes(**params)
            samples = own.get("sampling_rows", 0), own.get("sampling_columns", 0)
            return _workspace(
                order, result, operands, results, samples, params["layout"]
            )

        def example(dtype: str, layout: str) -> tuple[Any, dict[str, Any]]:
            rng = np.random.default_rng(2)
            corner = rng.integers(-4, 6, (40, 2)) * 4
            side = 16 * rng.integers(1, 3, (40, 2)) - 4 * self._inclusive
            boxes = np.concatenate([corner, corner + side], axis=1)
            return _example(self._params, boxes, order, result, dtype, layout)

        op = Op(
            self._name + suffix,
            signature,
            plain=plain_,
            sizes={
                "pooled": {"output_size": "P Q"},
                "maps": {"map_size": "N H W"},
                "boxes": {},
            }[result],
            dtypes=("G K 4",) if result == "boxes" else (None,),
            attributes=attributes,
            workspace=workspace,
            example=example,
        )
        self.ops[order, result] = lowering.register(op)

        def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
            return self._jvp(order, result, primals, tangents, params)

        def transpose(cotangent: Any, *operands: Any, **params: Any) -> Any:
            return self._transpose(order, result, cotangent, operands, params)

        ad.primitive_jvps[op.primitive] = jvp
        ad.primitive_transposes[op.primitive] = transpose

    def _split(
        self, order: int, result: str, operands: Sequence[Any]
    ) -> tuple[_Arguments, Sequence[Any]]:
        """An op's arguments in its form; boxes, image index and level."""
        if result == "maps":
            first, (pooled, *directions) = None, operands[: order + 1]
            return _Arguments(first, pooled, tuple(directions)), operands[order + 1 :]
        others = order + 2
        maps, rest, level = plain.split(operands, others)
        levels = () if level is None else (level,)
        if result == "pooled":
            arguments = _Arguments(tuple(maps), None, tuple(rest[:order]))
            return arguments, (*rest[order:], *levels)
        pooled, *directions = rest[:order]
        arguments = _Arguments(tuple(maps), pooled, tuple(directions))
        return arguments, (*rest[order:], *levels)

    def _bind(
        self,
        arguments: _Arguments,
        rois: Sequence[Any],
        sizes: dict[str, Any],
        own: dict[str, Any],
    ) -> list[Any]:
        """The derivative of a form along the argument that is not there."""
        order = len(arguments.directions)
        if arguments.maps is None:
            result, first = "maps", [arguments.pooled]
        elif arguments.pooled is None:
            result, first = "pooled", [*arguments.maps]
        else:
            result, first = "boxes", [*arguments.maps, arguments.pooled]
            order += 1
        op = self.ops[order, result]
        groups = sum(factor[0] == "g" for factor in sizes)
        params = {**own, **op.size_params(sizes, groups)}
        out = op.bind(*first, *arguments.directions, *rois, **params)
        return list(out) if op.several_results else [out]

    def _jvp(
        self, order: int, result: str, primals: Any, tangents: Any, params: Any
    ) -> Any:
        op = self.ops[order, result]
        sizes = op.all_sizes([x.shape for x in primals], params)
        own = _own(params)
        arguments, rois = self._split(order, result, primals)
        moves, moves_of_rois = self._split(order, result, tangents)
        out = op.bind(*primals, **params)
        changed: list[_Arguments] = []
        if moves.maps is not None and not all_zero(moves.maps):
            maps = tuple(map(ad.instantiate_zeros, moves.maps))
            changed.append(dataclasses.replace(arguments, maps=maps))
        if moves.pooled is not None and not all_zero([moves.pooled]):
            changed.append(dataclasses.replace(arguments, pooled=moves.pooled))
        for i, move in enumerate(moves.directions):
            if not all_zero([move]):
                directions = [*arguments.directions]
                directions[i] = move
                changed.append(
                    dataclasses.replace(arguments, directions=tuple(directions))
                )
        if (order + 1, result) in self.ops and not all_zero(moves_of_rois[:1]):
            directions = [*arguments.directions, moves_of_rois[0]]
            changed.append(dataclasses.replace(arguments, directions=tuple(directions)))
        if not changed:
            return out, jax.tree.map(zeros_of, out)
        total, *terms = [self._bind(x, rois, sizes, own) for x in changed]
        for term in terms:
            total = [ad.add_jaxvals(x, y) for x, y in zip(total, term, strict=True)]
        return out, total if op.several_results else total[0]

    def _transpose(
        self, order: int, result: str, cotangent: Any, operands: Any, params: Any
    ) -> Any:
        op = self.ops[order, result]
        unknown = ad.is_undefined_primal
        cotangents = cotangent if op.several_results else [cotangent]
        if all_zero(cotangents):
            return [ad.Zero(x.aval) if unknown(x) else None for x in operands]
        cotangents = list(map(ad.instantiate_zeros, cotangents))
        shapes = [x.aval.shape if unknown(x) else x.shape for x in operands]
        sizes = op.all_sizes(shapes, params)
        arguments, rois = self._split(order, result, operands)
        # The cotangent takes the place of the result, and what is not known its own.
        if result == "maps":
            arguments = dataclasses.replace(arguments, maps=tuple(cotangents))
        elif result == "pooled":
            arguments = dataclasses.replace(arguments, pooled=cotangents[0])
        else:
            directions = (*arguments.directions, cotangents[0])
            arguments = dataclasses.replace(arguments, directions=directions)
        if unknown(arguments.pooled):
            arguments = dataclasses.replace(arguments, pooled=None)
        elif any(map(unknown, arguments.maps or ())):
            arguments = dataclasses.replace(arguments, maps=None)
        else:
            directions = tuple(x for x in arguments.directions if not unknown(x))
            arguments = dataclasses.replace(arguments, directions=directions)
        out = iter(self._bind(arguments, rois, sizes, _own(params)))
        if arguments.maps is None:  # one for each level, whichever are wanted
            given = list(out)
            return [given[i] if unknown(x) else None for i, x in enumerate(operands)]
        return [next(out) if unknown(x) else None for x in operands]


def _own(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that all ops of a family have."""
    return {k: v for k, v in params.items() if k == "layout" or k not in _SHARED}


def _workspace(
    order: int,
    result: str,
    operands: Sequence[Any],
    results: Sequence[Any],
    samples: Sequence[int],
    layout: str,
) -> list[Any]:
    """What CUDA kernels keep of the bands of each RoI, at most, as int32.

    They ask for as much or less (`BandsMemory` in csrc/ops/bands/cuda_bands.h).
    """
    if result == "maps":
        maps, pooled, image_index = results, operands[0], operands[order + 2]
    else:
        maps, rest, _ = plain.split(operands, order + 2)
        pooled = rest[0] if result == "boxes" else results[0]
        image_index = rest[-1]
    rows = -3 if layout == "NHWC" else -2
    entries, cells, bins = 0, 0, 0
    for axis, count in zip((rows, rows + 1), samples, strict=True):
        extent = sum(x.shape[axis] for x in maps)
        cells += extent
        bins += pooled.shape[axis]
        # Cells that neighbouring bins share; a sample has two.
        entries += (2 * count if 0 < count <= 4 else 8) * pooled.shape[axis]
        entries += 0 if 0 < count <= 4 else extent
    entry = 4 if result == "boxes" else 2
    entry *= 2 if pooled.dtype == np.float64 else 1
    # Of the transpose by bin, and by cell once more.
    numbers = (2 if result == "maps" else 1) * entry * entries + cells + 2 * bins + 8
    return [jax.core.ShapedArray((*image_index.shape, numbers), np.int32)]


def _example(
    params: dict[str, Any],
    boxes: np.ndarray,
    order: int,
    result: str,
    dtype: str,
    layout: str,
) -> tuple[Any, dict[str, Any]]:
    """Small integers, whose products with powers of two are added without rounding."""
    rng = np.random.default_rng(3)
    image_index = rng.integers(-1, 3, 40).astype(np.int32)
    maps = jnp.asarray(rng.integers(-4, 5, (2, 19, 31, 37)), dtype)
    pooled = jnp.asarray(rng.integers(-4, 5, (40, 4, 4, 37)), dtype)
    maps, pooled = (plain.to_layout(x, layout) for x in (maps, pooled))
    directions = [rng.integers(-2, 3, (40, 4)).astype(np.float32)] * order
    sizes: dict[str, Any] = {}
    if result == "maps":
        first = [pooled]
        sizes = {"group_ndim": 0, "map_size": (2, 19, 31)}
    elif result == "pooled":
        first, sizes = [maps], {"output_size": (4, 4)}
    else:
        first, directions = [maps, pooled], directions[1:]
    operands = (*first, *directions, boxes.astype(np.float32), image_index)
    return operands, {**sizes, **params, "layout": layout}


def call(
    family: Family,
    arrays: Arrays,
    config: Config,
    *,
    box_dtype: Any = jnp.float32,
    box_gradient: bool = False,
    **own: Any,
) -> Array:
    """The op of a family on a call's arrays, in any of the three forms."""
    operands = forms.canonical(
        arrays, config.layout, box_dtype=box_dtype, box_gradient=box_gradient
    )
    return family.bind(*operands, **dataclasses.asdict(config), **own)
