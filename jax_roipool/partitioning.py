"""Arrays that are sharded over a mesh.

Under `jit` with mesh axes of type Explicit every array's type says how it is
sharded. Groups (the images of the per-image form), RoIs and channels may stay
sharded; an op needs rows, columns and the images that an index may name whole.
"""

from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def _axes(entries: tuple[Any, ...]) -> set[Any]:
    """The mesh axes in the entries of a spec."""
    axes: set[Any] = set()
    for entry in entries:
        axes.update(entry if isinstance(entry, tuple) else (entry,))
    return axes - {None}


def _reshard(x: Array, spec: tuple[Any, ...]) -> Array:
    sharding = jax.typeof(x).sharding
    if tuple(sharding.spec) == spec:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def reshard_operands(
    features: Array, rois: Array, valid: Array | None, layout: str
) -> tuple[Array, Array, Array | None]:
    """The arguments of a call, resharded to what the ops can work on.

    Stands outside the `custom_vjp`: the gradient then has the sharding that the
    features have there, and the transpose of the reshard does the rest. Where a
    mesh axis shards both RoIs and channels (or groups), the RoIs give way.
    """
    spec = tuple(jax.typeof(features).sharding.spec)
    rois_spec = tuple(jax.typeof(rois).sharding.spec)
    if not _axes(spec) and not _axes(rois_spec):
        return features, rois, valid
    channel = features.ndim - (1 if layout == "NHWC" else 3)
    groups = 1 if rois.ndim == 3 else 0
    kept = tuple(
        entry if axis < groups or axis == channel else None
        for axis, entry in enumerate(spec)
    )
    taken = _axes(kept)
    rois_kept = (
        *kept[:groups],
        *(None if _axes((e,)) & taken else e for e in rois_spec[groups:-1]),
        None,
    )
    return (
        _reshard(features, kept),
        _reshard(rois, rois_kept),
        None if valid is None else _reshard(valid, rois_kept[:-1]),
    )
