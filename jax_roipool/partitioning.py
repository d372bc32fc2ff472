"""Arrays that are sharded over a mesh.

Groups (the images of the per-image form), RoIs and channels may stay sharded; an
op needs rows, columns and the images that an index may name whole. So every
device calls the op on its own shard, and only results that lack the RoIs, such as a
gradient of features, are summed over devices where RoIs are sharded.

`reshard` sees to that for mesh axes of type Explicit, where every array's type says
how it is sharded; `partitioned` tells the compiler, which decides for those of type
Auto; inside `shard_map`, where axes are Manual, a call is local already, and
`match_varying_axes` is all there is to do.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jax_roipool.primitive import Factors, Op


def _names(entry: Any) -> tuple[Any, ...]:
    """The mesh axes in an entry of a spec."""
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _assign(arrays: Sequence[tuple[Factors, Sequence[Any]]]) -> dict[str, Any]:
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
                axes = set(_names(entry))
                if axes and not axes & taken:
                    assigned[factor] = entry
                    taken |= axes
                    break
    return assigned


# --- Explicit: what the types say --------------------------------------------


def reshard(arrays: Sequence[Array | None], factors: Sequence[Factors]) -> list[Any]:
    """The arguments of a call, resharded to what the ops can work on.

    Stands outside of a `custom_vjp`: the gradient then has the sharding that the
    features have there, and the transpose of the reshard does the rest. Where a
    mesh axis shards both RoIs and channels (or groups), the RoIs give way. An
    array that is on no mesh is replicated over that of the others.

    Args:
      arrays: The arguments; `None` stays.
      factors: Of each, as `Op.factors` names them.
    """
    own = [None if x is None else jax.typeof(x).sharding for x in arrays]
    specs = [
        (names, tuple(sharding.spec))
        for names, sharding in zip(factors, own, strict=True)
        if sharding is not None
    ]
    if not any(_names(entry) for _, spec in specs for entry in spec):
        return list(arrays)
    assigned = _assign(specs)
    mesh = next(s.mesh for s in own if s is not None and not s.mesh.empty)
    result = []
    for x, names, sharding in zip(arrays, factors, own, strict=True):
        spec = PartitionSpec(*(assigned.get(factor) for factor in names))
        if sharding is None or (sharding.mesh == mesh and sharding.spec == spec):
            result.append(x)
        else:
            result.append(jax.sharding.reshard(x, NamedSharding(mesh, spec)))
    return result


# --- Manual: inside shard_map ------------------------------------------------


def match_varying_axes(*arrays: Array) -> tuple[Any, ...]:
    """The arrays, all varying over the manual axes over which any of them does.

    Inside `shard_map` an array may be the same on all devices of a mesh axis
    while another varies. JAX inserts the casts, whose transpose is the sum over
    devices, into its own operations but not around a primitive of ours, nor between
    what a loop carries and what its body gives. They stand outside of a `custom_vjp`,
    whose gradient then varies as its input does.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    union = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(x, tuple(union - axes), to="varying") if union - axes else x
        for x, axes in zip(arrays, varying, strict=True)
    )


# --- Auto: what the compiler is told -----------------------------------------


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
def partitioned(op: Op, ndims: tuple[int, ...], **params: Any) -> Callable[..., Any]:
    """The op on arrays that may be sharded: `op.on_device` on every device's shards.

    Args:
      op: The op.
      ndims: How many dimensions each operand has.
      **params: The op's parameters.
    """
    operands, results = op.factors(ndims, params)

    # Factors by which a call can be cut: RoIs always, groups and channels where
    # every result has them.
    def may_be_sharded(factor: str) -> bool:
        kept = all(factor in array for array in results)
        return factor[0] == "k" or (factor[0] in "gc" and kept)

    def bind(*args: Any) -> Any:
        out = op.on_device.bind(*args, **params)
        return tuple(out) if op.several_results else out

    def partition(mesh: Any, args: Any, result: Any) -> Any:
        shapes = [*args, *jax.tree.leaves(result)]
        assigned = _assign(
            [
                (factors, tuple(x.sharding.spec))
                for factors, x in zip([*operands, *results], shapes, strict=True)
            ]
        )
        assigned = {k: v for k, v in assigned.items() if may_be_sharded(k)}

        def sharding(factors: Factors) -> NamedSharding:
            entries = (assigned.get(factor) for factor in factors)
            return NamedSharding(mesh, PartitionSpec(*entries))

        run = bind
        if op.summed is not None:
            index = op.where("G K", len(args))
            sums = tuple(
                Sum(axis, args[index].shape[axis], _names(assigned[factor]))
                for axis, factor in enumerate(operands[index])
                if factor[0] == "k" and factor in assigned
            )
            if sums:
                run = functools.partial(op.summed.bind, sums=sums, **params)
        out = tuple(sharding(factors) for factors in results)
        return (
            mesh,
            run,
            out if op.several_results else out[0],
            tuple(sharding(factors) for factors in operands),
        )

    rule = ", ".join(" ".join(f) for f in operands) + " -> "
    rule += ", ".join(" ".join(f) for f in results)
    # In order of first appearance, which is what the partitioner wants.
    appearing = dict.fromkeys(f for array in [*operands, *results] for f in array)
    whole = tuple(f for f in appearing if not may_be_sharded(f))
    function = custom_partitioning(bind)
    function.def_partition(
        partition, sharding_rule=rule, need_replication_factors=whole
    )
    return function


@dataclasses.dataclass(frozen=True)
class Sum:
    """A RoI axis that is sharded: which, its whole size, over which mesh axes."""

    axis: int
    size: int
    names: tuple[Any, ...]


def sum_over_devices(
    op: Op, *operands: Array, sums: tuple[Sum, ...], **params: Any
) -> Any:
    """What `op.summed` means: the results from the RoIs of all devices.

    Each device's part is added up in float32 or wider, and so are the parts; the
    sum is rounded once.

    Args:
      op: The op, whose results are as wide as its first operand.
      *operands: A device's shards.
      sums: The RoI axes that are sharded.
      **params: Those of the op.
    """
    cotangent, *others = operands
    index = op.where("G K", len(operands)) - 1
    image_index = others[index]
    for each in sums:
        first = jax.lax.axis_index(each.names) * image_index.shape[each.axis]
        iota = jax.lax.broadcasted_iota(jnp.int32, image_index.shape, each.axis)
        # Where devices do not divide the RoIs, the last have rows that nobody
        # has written.
        image_index = jnp.where(first + iota < each.size, image_index, -1)
    others[index] = image_index
    wide = jnp.promote_types(cotangent.dtype, jnp.float32)
    out = op.on_device.bind(cotangent.astype(wide), *others, **params)
    names = tuple(name for each in sums for name in each.names)
    return jax.tree.map(lambda x: jax.lax.psum(x, names).astype(cotangent.dtype), out)
