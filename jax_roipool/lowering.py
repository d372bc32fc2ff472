"""What a primitive becomes on each platform: a call of its kernel, or plain JAX.

On CPU, and on CUDA where that module is built, an op becomes a call of its compiled
kernel, the XLA custom-call target `jax_roipool_<op>`. On every other platform, and
where the kernels cannot be used (backends.py), it becomes its plain JAX.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax._src import dispatch  # see below: prim_requires_devices_during_lowering
from jax.interpreters import mlir

from jax_roipool import backends, partitioning
from jax_roipool.primitive import Op

_ops: dict[str, Op] = {}


def ops() -> dict[str, Op]:
    """All ops by name."""
    return dict(_ops)


def export_disabled_checks() -> list[jax.export.DisabledSafetyCheck]:
    """What `jax.export.export` must be told to export our custom calls.

    JAX refuses to export calls of targets that it does not know. Ours keep their
    names and attributes from version to version (docs/design/abi.md); a process
    that runs the exported program must import `jax_roipool`.

    Returns:
      A list for the argument `disabled_checks`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_roipool
      >>> pool = jax.jit(lambda f, r: jax_roipool.roi_pool(f, r, 7, 1 / 16))
      >>> exported = jax.export.export(
      ...     pool, disabled_checks=jax_roipool.export_disabled_checks()
      ... )(jnp.ones((1, 38, 63, 8)), jnp.ones((300, 5)))
      >>> exported.out_avals
      (ShapedArray(float32[300,7,7,8]),)
    """
    return [jax.export.DisabledSafetyCheck.custom_call(_target(op)) for op in _ops]


def _target(name: str) -> str:
    return f"jax_roipool_{name}"


def _lower_bare(function: Callable[..., Any], op: Op) -> Callable[..., Any]:
    """The lowering of an op to what `function` does, traced on bare shapes.

    The primitive has said how its result is sharded and over which manual axes it
    varies; operations inside, which see one array replicated and another sharded,
    would refuse or need casts.
    """
    lower = mlir.lower_fun(function, multiple_results=op.several_results)

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        bare = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in]
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return lower(ctx.replace(avals_in=bare), *operands, **params)

    return rule


def _attributes(op: Op, params: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an op's custom call. Kernels read sizes off their buffers."""
    layout = {"layout": params["layout"]} if "layout" in params else {}
    return {**op.attributes(**params), **layout}


def runs_kernel(op: Op, backend: backends.Backend) -> bool:
    """Whether programs for a platform that are compiled now call the op's kernel."""
    return backend.runs_kernel(_target(op.name))


def scale_attributes(
    spatial_scale: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """The scales of all levels as attributes; of one map as numbers."""
    height, width = np.asarray(spatial_scale, np.float32).T
    if len(spatial_scale) == 1:
        return {"scale_height": height[0], "scale_width": width[0]}
    return {"scale_height": height, "scale_width": width}


def cpu_kernel(op: Op) -> Callable[..., Any]:
    """The lowering of an op to a call of its CPU kernel."""
    call: Callable[..., Any] = jax.ffi.ffi_lowering(_target(op.name))

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        return call(ctx, *operands, **_attributes(op, params))

    return rule


def cuda_kernel(op: Op, target: str | None = None) -> Callable[..., Any]:
    """The lowering of an op to a call of its CUDA kernel.

    That allocates nothing, which a CUDA graph would not forgive: its workspace is one
    more result of the call, or several.
    """
    call: Callable[..., Any] = jax.ffi.ffi_lowering(target or _target(op.name))

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        results = list(ctx.avals_out)
        if op.workspace is not None:
            results += op.workspace(ctx.avals_in, ctx.avals_out, params)
        called = call(
            ctx.replace(avals_out=results), *operands, **_attributes(op, params)
        )
        return list(called)[: len(ctx.avals_out)]

    return rule


def _over_devices(op: Op, local: Callable[..., Any]) -> Callable[..., Any]:
    """`local`, and for a program of several devices a call that can be sharded."""

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        if not partitioning.can_partition(ctx.module_context.axis_context):
            return local(ctx, *operands, **params)
        ndims = tuple(aval.ndim for aval in ctx.avals_in)
        function = partitioning.partitioned(op, ndims, **params)
        return _lower_bare(function, op)(ctx, *operands)

    return rule


def lower_to(
    op: Op, kernel: Callable[..., Any], platform: str, used: Callable[[], bool]
) -> None:
    """Programs for `platform` call the kernel where `used` says so, else plain JAX."""
    plain = _lower_bare(op.plain, op)

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        return (kernel if used() else plain)(ctx, *operands, **params)

    mlir.register_lowering(op.on_device, rule, platform=platform)
    mlir.register_lowering(op.primitive, _over_devices(op, rule), platform=platform)


def lower(op: Op) -> None:
    """Gives an op its lowerings on every platform."""
    plain = _lower_bare(op.plain, op)
    mlir.register_lowering(op.on_device, plain)
    mlir.register_lowering(op.primitive, _over_devices(op, plain))
    if op.summed is not None:
        local = functools.partial(partitioning.sum_over_devices, op)
        mlir.register_lowering(op.summed, _lower_bare(local, op))
    used = functools.partial(runs_kernel, op, backends.CPU)
    lower_to(op, cpu_kernel(op), "cpu", used)
    if backends.CUDA.built:
        used = functools.partial(runs_kernel, op, backends.CUDA)
        lower_to(op, cuda_kernel(op), "cuda", used)


def register(op: Op) -> Op:
    """Gives an op its lowerings, and its place in exports and the self-check."""
    if op.name in _ops:
        raise ValueError(f"there is an op {op.name!r} already")
    _ops[op.name] = op
    lower(op)
    # JAX tells a lowering which devices it is for, and custom_partitioning needs to
    # know, only if the primitive is in this set; there is no public name for it.
    dispatch.prim_requires_devices_during_lowering.add(op.primitive)
    return op
