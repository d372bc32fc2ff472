"""Which code runs where: the only file that knows platforms.

On CPU the primitives become calls of the compiled kernels, XLA custom-call
targets named `jax_roipool_<op>`. On every other platform, and where the kernels
cannot be used, they become the plain JAX of `reference.py`.

The kernels are compiled for several instruction sets and the best one that the
CPU has is taken. The environment variable `JAX_ROIPOOL_CPU_TARGET` forces one
("baseline", "avx2", "avx512"), or the plain-JAX lowering ("portable").
"""

import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_roipool import primitive, reference

PORTABLE = "portable"
_CPU_TARGET_VARIABLE = "JAX_ROIPOOL_CPU_TARGET"

_OPS = {
    "roi_pool": primitive.roi_pool_p,
    "roi_pool_argmax": primitive.roi_pool_argmax_p,
    "roi_gather": primitive.roi_gather_p,
    "roi_scatter": primitive.roi_scatter_p,
}


def primitives() -> dict[str, Primitive]:
    """The primitives by the name of their op."""
    return dict(_OPS)


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
    return [jax.export.DisabledSafetyCheck.custom_call(_target_name(op)) for op in _OPS]


def _target_name(op: str) -> str:
    return f"jax_roipool_{op}"


# --- Loading the kernels ---------------------------------------------------


def jaxlib_ffi_version() -> tuple[int, int] | None:
    """The version of XLA's FFI that the installed jaxlib speaks.

    Read from its own header: there is no function that tells. None where the
    header is missing or says nothing.
    """
    header = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
    try:
        text = header.read_text(encoding="utf-8")
    except OSError:
        return None
    found = [
        re.search(rf"^#define XLA_FFI_API_{part} (\d+)", text, re.MULTILINE)
        for part in ("MAJOR", "MINOR")
    ]
    if found[0] is None or found[1] is None:
        return None
    return int(found[0][1]), int(found[1][1])


def _load_cpu_module() -> tuple[Any, str]:
    """The module with the CPU kernels, or None and why it cannot be used."""
    if importlib.util.find_spec("jax_roipool._cpu") is None:
        return None, "this installation of jax_roipool has no CPU kernels"
    try:
        module = importlib.import_module("jax_roipool._cpu")
    except ImportError as error:
        return None, f"the CPU kernels do not load: {error}"
    # A library that is newer than jaxlib's FFI is refused only when the backend
    # starts, and then the backend is what fails. So it is not registered.
    compiled, running = module.FFI_API_VERSION, jaxlib_ffi_version()
    if running is None:
        return None, (
            "the installed jaxlib does not tell its FFI version, and "
            "registering kernels that it cannot run would break jax"
        )
    if compiled[0] != running[0] or compiled[1] > running[1]:
        jaxlib = importlib.metadata.version("jaxlib")
        return None, (
            f"the CPU kernels were compiled for XLA FFI {compiled[0]}.{compiled[1]} "
            f"and the installed jaxlib {jaxlib} speaks {running[0]}.{running[1]}; "
            "upgrade jaxlib, or reinstall jax_roipool from a build against this "
            "jaxlib"
        )
    for name, capsule in module.ffi_targets().items():
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return module, ""


class _Cpu:
    """The CPU kernels and the instruction set in use."""

    def __init__(self) -> None:
        self.module, self.problem = _load_cpu_module()
        self.target = PORTABLE if self.module is None else self.module.target()

    def supported(self) -> tuple[str, ...]:
        if self.module is None:
            return (PORTABLE,)
        return (*self.module.supported_targets(), PORTABLE)

    def use(self, target: str) -> None:
        if target not in self.supported():
            raise ValueError(
                f"CPU target {target!r} is not available here; available: "
                f"{', '.join(self.supported())}"
            )
        if target != PORTABLE:
            self.module.set_target(target)
        # Compiled programs call the kernels, which look the target up, or they
        # hold the plain JAX.
        recompile = PORTABLE in (target, self.target) and target != self.target
        self.target = target
        if recompile:
            jax.clear_caches()


_cpu = _Cpu()


def cpu_target() -> str:
    """The instruction set of the CPU kernels in use, or "portable"."""
    return _cpu.target


def supported_cpu_targets() -> tuple[str, ...]:
    """What `set_cpu_target` takes on this machine, best first."""
    return _cpu.supported()


def built_cpu_targets() -> tuple[str, ...]:
    """The instruction sets that the installed kernels were compiled for."""
    return () if _cpu.module is None else tuple(_cpu.module.built_targets())


def cpu_problem() -> str:
    """Why the CPU kernels cannot be used; empty where they can."""
    return _cpu.problem


def set_cpu_target(target: str) -> None:
    """Uses another instruction set, or "portable", from now on.

    For tests and for tracking down a difference; meant to be called from one
    thread. A change to or from "portable" drops everything JAX has compiled,
    because compiled programs would keep what they were lowered to.

    Args:
      target: One of `supported_cpu_targets()`.

    Raises:
      ValueError: This machine or this installation has no such target.
    """
    _cpu.use(target)


# --- Lowering --------------------------------------------------------------


# Kernels read sizes off their buffers.
_SIZES = frozenset({"output_size", "group_ndim", "map_size"})


def _attributes(params: dict[str, Any]) -> dict[str, Any]:
    """A primitive's parameters as FFI attributes, whose types must be exact."""
    attributes = {k: v for k, v in params.items() if k not in _SIZES}
    if "spatial_scale" in attributes:
        height, width = attributes.pop("spatial_scale")
        attributes["scale_height"] = np.float32(height)
        attributes["scale_width"] = np.float32(width)
    return attributes


def _portable(op: str) -> Callable[..., Any]:
    """The lowering of an op to its plain JAX.

    That code is traced on bare shapes. The primitive has said how its result is
    sharded and over which manual axes it varies; operations inside, which see
    one array replicated and another sharded, would refuse or need casts.
    """
    lower = mlir.lower_fun(
        getattr(reference, op), multiple_results=_OPS[op].multiple_results
    )

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        bare = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in]
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return lower(ctx.replace(avals_in=bare), *operands, **params)

    return rule


def _register(op: str) -> None:
    bound = _OPS[op]
    portable = _portable(op)
    kernel: Callable[..., Any] = jax.ffi.ffi_lowering(_target_name(op))

    def lower_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        if _cpu.target == PORTABLE:
            return portable(ctx, *operands, **params)
        return kernel(ctx, *operands, **_attributes(params))

    mlir.register_lowering(bound, portable)
    mlir.register_lowering(bound, lower_cpu, platform="cpu")


for _op in _OPS:
    _register(_op)

if _cpu.problem:
    warnings.warn(
        f"jax_roipool uses its slower plain-JAX lowering on CPU: {_cpu.problem}",
        stacklevel=2,
    )
if _CPU_TARGET_VARIABLE in os.environ:
    try:
        _cpu.use(os.environ[_CPU_TARGET_VARIABLE])
    except ValueError as error:
        raise ValueError(
            f"environment variable {_CPU_TARGET_VARIABLE}: {error}"
        ) from None
