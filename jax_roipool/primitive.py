"""The record of an op: a JAX primitive from one signature.

A signature names the axes of an op's operands and results, channels last:

    "G N H W C, G K 4, G K -> G K P Q C"

    N, H, W, C    images, rows, columns and channels of a feature map
    G             groups: sets of images that an image index may name
    K             RoIs; their boxes are G K 4, their image indices G K
    P, Q          rows and columns of bins
    B, M          boxes that stay whole, and results, of an op without RoIs
    *             before an array: one for each level of a feature pyramid, each
                  with H and W of its own
    ?             before an operand: only there with several levels

There may be any number of group axes and of RoI axes, none included. With
`layout="NCHW"` the channels stand before their two neighbours. From the signature
follow

- shapes and shardings of the results. A letter that no operand has is a parameter;
- the batching rule, which only moves an axis: into G where a mapped operand or a
  result has images, or there are no RoIs, else into K, so that maps that are not
  mapped are never copied. No index is ever offset: one that names no image cannot
  come to name a neighbour's;
- what may be sharded: G, K and C, where a result has them too. Over a sharded K
  that the results lack they are summed (partitioning.py).

Operands vary over the same manual mesh axes; `partitioning.match_varying_axes` sees
to that.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla
from jax.sharding import PartitionSpec

# The axes of one array, each by the name of its factor: g0, g1, ..., k0, ..., n, c.
Factors = tuple[str, ...]

_GROUPS = "group_ndim"  # a parameter where operands do not tell


@dataclasses.dataclass(frozen=True)
class Signature:
    """A parsed signature: the letters of every operand and result."""

    operands: tuple[tuple[str, ...], ...]
    results: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> "Signature":
        """A signature from its text."""
        operands, results = (
            tuple(tuple(array.split()) for array in side.split(","))
            for side in text.split("->")
        )
        return cls(operands, results)

    @property
    def has_rois(self) -> bool:
        """Whether there are RoI axes at all."""
        return any("K" in letters for letters in self.operands)

    @property
    def tells_groups(self) -> bool:
        """Whether the operands' ranks tell groups from RoIs."""
        return any("K" not in letters for letters in self.operands)


def _starred(letters: Sequence[str]) -> bool:
    return letters[0].startswith("*")


def _optional(letters: Sequence[str]) -> bool:
    return letters[0].startswith("?")


def _for_levels(arrays: Sequence[Sequence[str]], levels: int) -> list[tuple[str, ...]]:
    """The letters of every array, H and W of each level by a number of its own."""
    result: list[tuple[str, ...]] = []
    for letters in arrays:
        plain = (letters[0].lstrip("*?"), *letters[1:])
        if _starred(letters):
            for level in range(levels):
                result.append(tuple(x + str(level) if x in "HW" else x for x in plain))
        elif levels > 1 or not _optional(letters):
            result.append(plain)
    return result


def _factors(letters: Sequence[str], groups: int, rois: int, layout: str) -> Factors:
    """The factors of an array with so many group and RoI axes."""
    letters = list(letters)
    if layout == "NCHW" and "C" in letters:
        channel = letters.index("C")
        letters.insert(channel - 2, letters.pop(channel))
    result: list[str] = []
    for letter in letters:
        if letter == "G":
            result += [f"g{i}" for i in range(groups)]
        elif letter == "K":
            result += [f"k{i}" for i in range(rois)]
        else:
            result.append(f"b{letter}" if letter.isdigit() else letter.lower())
    return tuple(result)


# XLA ends the process where a size overflows 64 bits, and our lowerings hold
# arrays of up to 32 bytes for each number. No process has 2**57 bytes of addresses.
_MAX_NUMBERS = 2**56


def _check_size(what: str, shape: Sequence[Any]) -> None:
    """Refuses an array that no machine holds, by any size but 0 or a symbol."""
    sizes = [size for size in shape if isinstance(size, int) and size > 0]
    if math.prod(sizes) >= _MAX_NUMBERS:
        raise ValueError(
            f"{what} of shape {list(shape)} would have 2**56 numbers or more "
            "(sizes of 0 left out), which no machine holds"
        )


def _no_attributes(**params: Any) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """An op, and the primitives that stand for it.

    `lowering.register` gives it its lowerings. Derivatives stand beside the record,
    in the op's file; `define_linear` makes those of a linear one.

    Attributes:
      name: The primitive's; the custom call is `jax_roipool_<name>`.
      signature: See above.
      plain: The op in plain JAX, on arrays of the signature.
      sizes: Parameters that hold sizes, by the letters of which, as in `{"map_size":
        "N H W"}`. Where operands do not tell G from K, `group_ndim` is one more.
      dtypes: Of the results; `None` means that of the first operand, letters that of
        the operand with these, as in "G K 4".
      attributes: From the parameters to the custom call's, in exact types; `layout`,
        where it is a parameter, is one more.
      called: What errors call the first operand and the results.
      workspace: From the abstract values of operands and of results and the
        parameters to those of arrays that the CUDA kernel works in, which XLA
        allocates as results.
      example: From a dtype and a layout to operands and parameters, for the
        self-check: their results are equal to the bit, or integers that no order of
        adding changes.
    """

    name: str
    signature: str
    plain: Callable[..., Any]
    example: Callable[[str, str], tuple[Sequence[Any], dict[str, Any]]]
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtypes: Sequence[Any] = (None,)
    attributes: Callable[..., dict[str, Any]] = _no_attributes
    called: tuple[str, str] = ("features", "pooled")
    workspace: Callable[..., Sequence[Any]] | None = None

    @functools.cached_property
    def parsed(self) -> Signature:
        """The signature by its letters."""
        return Signature.parse(self.signature)

    @property
    def several_results(self) -> bool:
        """Whether the primitive gives a list."""
        results = self.parsed.results
        return len(results) > 1 or _starred(results[0])

    @functools.cached_property
    def primitive(self) -> Primitive:
        """What transformations see."""
        primitive = self._make(self.name)
        batching.fancy_primitive_batchers[primitive] = self._batch
        return primitive

    @functools.cached_property
    def on_device(self) -> Primitive:
        """The same op within one device: no transformation sees it.

        What the compiler calls on each shard of sharded arrays.
        """
        return self._make(f"{self.name}_on_device")

    @functools.cached_property
    def summed(self) -> Primitive | None:
        """What a device calls where RoIs are sharded that the results lack.

        A primitive, so that it is lowered on its own, whatever mesh is in force.
        None where there are no such.
        """
        if not self.parsed.has_rois or any("K" in x for x in self.parsed.results):
            return None
        return self._make(f"{self.name}_sum")

    def where(self, letters: str, operands: int) -> int:
        """Which of so many operands of a call is the one with these letters."""
        arrays = self.parsed.operands
        place = arrays.index(tuple(letters.split()))
        if place and _starred(arrays[0]):
            place += self.levels(operands, {}) - 1
        return place

    def bind(self, *operands: Any, **params: Any) -> Any:
        """The op on arrays of its signature."""
        return self.primitive.bind(*operands, **params)

    def _make(self, name: str) -> Primitive:
        primitive = Primitive(name)
        primitive.multiple_results = self.several_results
        primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
        primitive.def_abstract_eval(self._abstract_eval)
        return primitive

    def levels(self, operands: int, params: Mapping[str, Any]) -> int:
        """How many maps a starred array stands for."""
        if _starred(self.parsed.operands[0]):
            optional = sum(map(_optional, self.parsed.operands))
            maps = operands - (len(self.parsed.operands) - 1 - optional)
            return maps if maps == 1 else maps - optional
        for name, letters in self.sizes.items():
            repeated = sum(x in "HW" for x in letters.split())
            if repeated:
                return (len(params[name]) - len(letters.split())) // repeated + 1
        return 1

    def factors(
        self, ndims: Sequence[int], params: Mapping[str, Any]
    ) -> tuple[list[Factors], list[Factors]]:
        """The factors of all operands and results, for operands of these ranks."""
        levels = self.levels(len(ndims), params)
        operands = _for_levels(self.parsed.operands, levels)
        results = _for_levels(self.parsed.results, levels)
        groups = params.get(_GROUPS)
        if groups is None:
            groups = next(
                ndim - len(letters) + 1
                for letters, ndim in zip(operands, ndims, strict=True)
                if "K" not in letters
            )
        rois = ndims[operands.index(("G", "K"))] - groups if self.parsed.has_rois else 0
        layout = params.get("layout", "NHWC")
        return (
            [_factors(letters, groups, rois, layout) for letters in operands],
            [_factors(letters, groups, rois, layout) for letters in results],
        )

    def size_params(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that hold sizes, from those of all factors."""
        result: dict[str, Any] = {}
        for name, letters in self.sizes.items():
            levels = sum(factor.startswith("h") for factor in sizes)
            result[name] = tuple(
                sizes[factor] for factor in self._sized(letters, levels)
            )
        if not self.parsed.tells_groups:
            result[_GROUPS] = sum(factor.startswith("g") for factor in sizes)
        return result

    def _sized(self, letters: str, levels: int) -> list[str]:
        """The factors whose sizes a parameter holds, in its order."""
        arrays = [*self.parsed.operands, *self.parsed.results]
        if not any(_starred(array) for array in arrays):
            return [x.lower() for x in letters.split()]
        single = [x.lower() for x in letters.split() if x not in "HW"]
        repeated = [x.lower() for x in letters.split() if x in "HW"]
        return single + [x + str(i) for i in range(levels) for x in repeated]

    def all_sizes(
        self, shapes: Sequence[Sequence[Any]], params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The size of every factor, from the operands' shapes and the parameters."""
        operands, _ = self.factors([len(shape) for shape in shapes], params)
        sizes: dict[str, Any] = {}
        for factors, shape in zip(operands, shapes, strict=True):
            sizes.update(zip(factors, shape, strict=True))
        levels = self.levels(len(shapes), params)
        for name, letters in self.sizes.items():
            sizes.update(zip(self._sized(letters, levels), params[name], strict=True))
        return sizes

    def _abstract_eval(self, *avals: Any, sums: Any = (), **params: Any) -> Any:
        del sums  # of `summed`: shapes are those of the op
        operands, results = self.factors([x.ndim for x in avals], params)
        sizes = self.all_sizes([x.shape for x in avals], params)
        entries: dict[str, Any] = {}
        for factors, aval in zip(operands, avals, strict=True):
            for factor, entry in zip(factors, aval.sharding.spec, strict=True):
                if entry is not None and factor[0] in "gkc":
                    entries.setdefault(factor, entry)
        first = avals[0]
        _check_size(self.called[0], first.shape)
        dtypes = [self._dtype(x, avals) for x in self.dtypes]
        dtypes += dtypes[-1:] * (len(results) - len(dtypes))  # of every level
        out = []
        for factors, dtype in zip(results, dtypes, strict=True):
            shape = tuple(sizes[factor] for factor in factors)
            _check_size(self.called[1], shape)
            spec = _each_axis_once([entries.get(factor) for factor in factors])
            out.append(
                first.update(
                    shape=shape,
                    dtype=dtype,
                    weak_type=False,
                    sharding=first.sharding.update(spec=PartitionSpec(*spec)),
                )
            )
        return out if self.several_results else out[0]

    def _dtype(self, dtype: Any, avals: Sequence[Any]) -> Any:
        """One of `dtypes`, for such operands."""
        if isinstance(dtype, str):
            return avals[self.where(dtype, len(avals))].dtype
        return avals[0].dtype if dtype is None else jnp.dtype(dtype)

    def _batch(
        self, axis_data: Any, args: Sequence[Any], dims: Sequence[Any], **params: Any
    ) -> tuple[Any, Any]:
        mapped = [dim is not None for dim in dims]
        levels = self.levels(len(args), params)
        operands = _for_levels(self.parsed.operands, levels)
        results = _for_levels(self.parsed.results, levels)
        factors, _ = self.factors(
            [x.ndim - (dim is not None) for x, dim in zip(args, dims, strict=True)],
            params,
        )
        groups = sum(factor[0] == "g" for factor in factors[-1])
        into_groups = (
            not self.parsed.has_rois
            or any("N" in letters for letters in results)
            or any(
                is_mapped and "N" in letters
                for is_mapped, letters in zip(mapped, operands, strict=True)
            )
        )
        letter, place = ("G", 0) if into_groups else ("K", groups)
        if not any(mapped):
            out = self.bind(*args, **params)
            return out, [None] * len(out) if self.several_results else None
        args = [
            _move_to(axis_data, x, dim, place) if letter in letters else x
            for x, dim, letters in zip(args, dims, operands, strict=True)
        ]
        if into_groups and _GROUPS in params:
            params[_GROUPS] = groups + 1
        out = self.bind(*args, **params)
        return out, [place] * len(out) if self.several_results else place


def _each_axis_once(entries: Sequence[Any]) -> list[Any]:
    """A spec's entries without those whose mesh axis shards a dimension already."""
    seen: set[Any] = set()
    result = []
    for entry in entries:
        axes = set(entry if isinstance(entry, tuple) else (entry,)) - {None}
        result.append(None if axes & seen else entry)
        seen |= axes
    return result


def _move_to(
    axis_data: Any, x: jax.Array, source: int | None, destination: int
) -> jax.Array:
    """`x` with its mapped axis at `destination`, broadcast if it has none."""
    if source is None:
        return batching.broadcast(
            x, axis_data.size, destination, axis_data.explicit_mesh_axis
        )
    return jnp.moveaxis(x, source, destination)


# --- Linear ops --------------------------------------------------------------


def zeros_of(x: Any) -> ad.Zero:
    """The tangent of an array that does not move."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def all_zero(arrays: Sequence[Any]) -> bool:
    """Whether all of some tangents or cotangents are symbolic zeros."""
    return all(type(x) is ad.Zero for x in arrays)


def define_linear(op: Op, transposed: Op) -> None:
    """The derivatives of an op that is linear in its first array.

    Its transpose is `transposed`: the same operands but for the first, which is the
    cotangent. The other operands have no derivatives. Where the first array is starred
    it stands for a map of each level, and the transpose has as many results.

    Args:
      op: The op.
      transposed: Its transpose, linear in its first array too.
    """
    starred = _starred(op.parsed.operands[0])

    def linear(operands: Sequence[Any], params: Mapping[str, Any]) -> int:
        return op.levels(len(operands), params) if starred else 1

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        out = op.bind(*primals, **params)
        count = linear(primals, params)
        first = tangents[:count]
        if all_zero(first):
            return out, jax.tree.map(zeros_of, out)
        moves = map(ad.instantiate_zeros, first)
        return out, op.bind(*moves, *primals[count:], **params)

    def transpose(cotangent: Any, *operands: Any, **params: Any) -> Any:
        cotangents = cotangent if op.several_results else [cotangent]
        count = linear(operands, params)
        first, others = operands[:count], operands[count:]
        if all_zero(cotangents):
            out = [
                ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in first
            ]
            return *out, *(None,) * len(others)
        shapes = [
            x.aval.shape if ad.is_undefined_primal(x) else x.shape for x in operands
        ]
        sizes = op.all_sizes(shapes, params)
        kept = {k: v for k, v in params.items() if k not in {*op.sizes, _GROUPS}}
        kept |= transposed.size_params(sizes)
        out = transposed.bind(*map(ad.instantiate_zeros, cotangents), *others, **kept)
        out = out if transposed.several_results else [out]
        out = [
            y if ad.is_undefined_primal(x) else None
            for x, y in zip(first, out, strict=True)
        ]
        return *out, *(None,) * len(others)

    ad.primitive_jvps[op.primitive] = jvp
    ad.primitive_transposes[op.primitive] = transpose
