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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters import ad

from jax_roipool import forms, lowering, plain
from jax_roipool.arguments import Arrays, Config
from jax_roipool.ops import taps
from jax_roipool.primitive import Op, all_zero, zeros_of

# Parameters that are not an op's own.
_SHARED = ("output_size", "group_ndim", "map_size", "layout")

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
        make: taps.MakeBands,
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
        functions = {
            "pooled": taps.apply,
            "maps": taps.transpose,
            "boxes": taps.box_gradient,
        }
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
            pooled, *directions = operands[: order + 1]
            return _Arguments(None, pooled, tuple(directions)), operands[order + 1 :]
        maps, rest, level = plain.split(operands, order + 2)
        linear, rois = rest[:order], [*rest[order:]]
        if level is not None:
            rois.append(level)
        pooled, *directions = linear if result == "boxes" else (None, *linear)
        return _Arguments(tuple(maps), pooled, tuple(directions)), rois

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
        params = {**own, **op.size_params(sizes)}
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
        out = self._bind(arguments, rois, sizes, _own(params))
        if arguments.maps is not None:  # one; else one for each level
            out = out * len(operands)
        return [out[i] if unknown(x) else None for i, x in enumerate(operands)]


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
