"""Arrays that are sharded over a mesh.

Groups (the images of the per-image form), RoIs and channels may stay sharded; an
op needs rows, columns and the images that an index may name whole. So every
device calls the op on its own shard, and only a gradient over sharded RoIs is
summed over devices.

`reshard_operands` sees to that for mesh axes of type Explicit, where every
array's type says how it is sharded; `partitioned` tells the compiler, which
decides for those of type Auto.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import NamedSharding, PartitionSpec

from jax_roipool import primitive

# --- Explicit: what the types say --------------------------------------------


def _spec(x: Array) -> tuple[Any, ...]:
    return tuple(jax.typeof(x).sharding.spec)


def _names(entry: Any) -> tuple[Any, ...]:
    """The mesh axes in an entry of a spec."""
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _axes(entries: Sequence[Any]) -> set[Any]:
    """The mesh axes in the entries of a spec."""
    return {name for entry in entries for name in _names(entry)}


def reshard_operands(
    features: Array | None, rois: Array, valid: Array | None, layout: str
) -> tuple[Any, Any, Any]:
    """The arguments of a call, resharded to what the ops can work on.

    Stands outside the `custom_vjp`: the gradient then has the sharding that the
    features have there, and the transpose of the reshard does the rest. Where a
    mesh axis shards both RoIs and channels (or groups), the RoIs give way. An
    array that is on no mesh is replicated over that of the others.
    """
    arrays = [x for x in (features, rois, valid) if x is not None]
    if not any(_axes(_spec(x)) for x in arrays):
        return features, rois, valid
    meshes = [jax.typeof(x).sharding.mesh for x in arrays]
    mesh = next(mesh for mesh in meshes if not mesh.empty)

    def reshard(x: Array | None, spec: tuple[Any, ...]) -> Array | None:
        if x is None:
            return None
        own = jax.typeof(x).sharding
        if own.mesh == mesh and tuple(own.spec) == spec:
            return x
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))

    groups = 1 if rois.ndim == 3 else 0
    features_spec: tuple[Any, ...] = ()
    if features is None:
        rois_spec = _spec(rois)[:groups]
    else:
        channel = features.ndim - (1 if layout == "NHWC" else 3)
        features_spec = tuple(
            entry if axis < groups or axis == channel else None
            for axis, entry in enumerate(_spec(features))
        )
        rois_spec = features_spec[:groups]
    taken = _axes(features_spec + rois_spec)
    rois_spec += tuple(
        None if _axes((entry,)) & taken else entry for entry in _spec(rois)[groups:-1]
    )
    return (
        reshard(features, features_spec),
        reshard(rois, (*rois_spec, None)),
        reshard(valid, rois_spec),
    )


# --- Manual: inside shard_map -------------------------------------------------


def match_varying_axes(*arrays: Array) -> tuple[Any, ...]:
    """The arrays, all varying over the manual axes over which any of them does.

    Inside `shard_map` an array may be the same on all devices of a mesh axis
    while another varies. JAX inserts the casts, whose transpose is the sum over
    devices, into its own operations but not around a primitive of ours. They
    stand outside the `custom_vjp`, whose gradient then varies as its input does.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    union = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(x, tuple(union - axes), to="varying") if union - axes else x
        for x, axes in zip(arrays, varying, strict=True)
    )


# --- Auto: what the compiler is told -----------------------------------------
#
# A dimension of an operand or a result is a factor: groups g0, g1, ..., RoIs k0,
# k1, ..., image, row, column, channel, the numbers of a box, bin row and column.
# Dimensions of the same factor are sharded alike.

_OPERANDS_RESULTS = {
    "roi_pool": (("map", "box", "roi"), ("pooled",)),
    "roi_pool_argmax": (("map", "box", "roi"), ("pooled", "pooled")),
    "roi_gather": (("map", "roi", "pooled"), ("pooled",)),
    "roi_scatter": (("pooled", "roi", "pooled"), ("map",)),
}
# Needed whole. An array that has several has them in this order, which is what
# the partitioner wants.
_WHOLE = ("n", "h", "w", "b", "p", "q")


def _factors(array: str, groups: int, rois: int, layout: str) -> tuple[str, ...]:
    g = tuple(f"g{i}" for i in range(groups))
    k = tuple(f"k{i}" for i in range(rois))
    nhwc = layout == "NHWC"
    return {
        "map": (*g, "n", *(("h", "w", "c") if nhwc else ("c", "h", "w"))),
        "box": (*g, *k, "b"),
        "roi": (*g, *k),
        "pooled": (*g, *k, *(("p", "q", "c") if nhwc else ("c", "p", "q"))),
    }[array]


def _assign(arrays: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> dict[str, Any]:
    """One entry of a spec for each factor, from those of all arrays.

    The first array that shards a factor decides; no mesh axis is given twice:
    groups come before channels, and RoIs give way.
    """
    seen = dict.fromkeys(factor for factors, _ in arrays for factor in factors)
    assigned: dict[str, Any] = {}
    taken: set[Any] = set()
    for kind in ("g", "c", "k"):
        for factor in (factor for factor in seen if factor[0] == kind):
            for factors, spec in arrays:
                entry = spec[factors.index(factor)] if factor in factors else None
                axes = _axes((entry,))
                if axes and not axes & taken:
                    assigned[factor] = entry
                    taken |= axes
                    break
    return assigned


def can_partition(axis_context: Any) -> bool:
    """Whether a lowering with this context is for a mesh that can be sharded over.

    Not on one device, nor inside `shard_map`, where a call is local already. On
    a mesh of which only some axes are manual, where the devices have no mesh, and
    without Shardy, the compiler gathers.
    """
    mesh = getattr(axis_context, "abstract_mesh", None)
    several = mesh is not None and not mesh.empty and mesh.size > 1
    # GSPMD, the partitioner before Shardy, knows nothing of sharding rules.
    return several and getattr(jax.config, "jax_use_shardy_partitioner", True)


@functools.lru_cache(maxsize=1024)
def partitioned(
    op: str, local: Primitive, ndims: tuple[int, ...], **params: Any
) -> Callable[..., Any]:
    """The op on arrays that may be sharded: `local` on every device's shards.

    Args:
      op: The name of the op.
      local: A primitive with its meaning and parameters.
      ndims: How many dimensions each operand has.
      **params: The op's parameters.
    """
    arrays = _OPERANDS_RESULTS[op]
    ndim = dict(zip(arrays[0], ndims, strict=True))
    groups = ndim["map"] - 4 if "map" in ndim else params["group_ndim"]
    operands, results = (
        [_factors(a, groups, ndim["roi"] - groups, params["layout"]) for a in some]
        for some in arrays
    )

    def bind(*args: Any) -> Any:
        out = local.bind(*args, **params)
        return tuple(out) if local.multiple_results else out

    def partition(mesh: Any, args: Any, result: Any) -> Any:
        shapes = [*args, *jax.tree.leaves(result)]
        assigned = _assign(
            [
                (factors, tuple(x.sharding.spec))
                for factors, x in zip([*operands, *results], shapes, strict=True)
            ]
        )

        def sharding(factors: Sequence[str]) -> NamedSharding:
            entries = (assigned.get(factor) for factor in factors)
            return NamedSharding(mesh, PartitionSpec(*entries))

        out = [sharding(factors) for factors in results]
        run = bind
        if op == "roi_scatter":
            sums = tuple(
                _Sum(axis, args[1].shape[axis], tuple(_names(assigned[factor])))
                for axis, factor in enumerate(operands[1])
                if factor[0] == "k" and factor in assigned
            )
            if sums:
                run = functools.partial(
                    primitive.roi_scatter_sum_p.bind, sums=sums, **params
                )
        return (
            mesh,
            run,
            tuple(out) if local.multiple_results else out[0],
            tuple(sharding(factors) for factors in operands),
        )

    rule = ", ".join(" ".join(f) for f in operands) + " -> "
    rule += ", ".join(" ".join(f) for f in results)
    appearing = dict.fromkeys(f for array in [*operands, *results] for f in array)
    whole = tuple(f for f in appearing if f in _WHOLE)
    function = custom_partitioning(bind)
    function.def_partition(
        partition, sharding_rule=rule, need_replication_factors=whole
    )
    return function


@dataclasses.dataclass(frozen=True)
class _Sum:
    """A RoI axis that is sharded: which, its whole size, over which mesh axes."""

    axis: int
    size: int
    names: tuple[Any, ...]


def scatter_and_sum(
    scatter: Primitive,
    cotangent: Array,
    image: Array,
    argmax: Array,
    *,
    sums: tuple[_Sum, ...],
    **params: Any,
) -> Array:
    """What `roi_scatter_sum_p` means: a gradient from the RoIs of all devices.

    Each device's part is added up in float32 or wider, and so are the parts; the
    sum is rounded once.

    Args:
      scatter: The primitive for one device's RoIs.
      cotangent: A device's shard, as `image` and `argmax` are.
      image: Image indices.
      argmax: Cells.
      sums: The RoI axes that are sharded.
      **params: Those of `scatter`.
    """
    for each in sums:
        first = jax.lax.axis_index(each.names) * image.shape[each.axis]
        row = first + jax.lax.broadcasted_iota(jnp.int32, image.shape, each.axis)
        # Where devices do not divide the RoIs, the last have rows that nobody
        # has written.
        image = jnp.where(row < each.size, image, -1)
    wide = jnp.promote_types(cotangent.dtype, jnp.float32)
    gradient = scatter.bind(cotangent.astype(wide), image, argmax, **params)
    names = tuple(name for each in sums for name in each.names)
    return jax.lax.psum(gradient, names).astype(cotangent.dtype)
