"""Arrays that are sharded over a mesh.

Under `jit` with mesh axes of type Explicit every array's type says how it is
sharded. Groups (the images of the per-image form), RoIs and channels may stay
sharded; an op needs rows, columns and the images that an index may name whole.
"""

from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def _spec(x: Array) -> tuple[Any, ...]:
    return tuple(jax.typeof(x).sharding.spec)


def _axes(entries: tuple[Any, ...]) -> set[Any]:
    """The mesh axes in the entries of a spec."""
    axes: set[Any] = set()
    for entry in entries:
        axes.update(entry if isinstance(entry, tuple) else (entry,))
    return axes - {None}


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
