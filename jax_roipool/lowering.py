"""Which code runs where: the only file that knows platforms.

On CPU, and on CUDA where that module is built, the primitives become calls of
the compiled kernels, XLA custom-call targets named `jax_roipool_<op>`. On every
other platform, and where the kernels cannot be used, they become the plain JAX of
`reference.py`.

The CPU kernels are compiled for several instruction sets and the best one that
the CPU has is taken. The environment variable `JAX_ROIPOOL_CPU_TARGET` forces one
("baseline", "avx2", "avx512"), or the plain-JAX lowering ("portable"), as
`JAX_ROIPOOL_CUDA_TARGET` does on CUDA ("kernels", "portable").
"""

import functools
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
from jax._src import dispatch  # see below: prim_requires_devices_during_lowering
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jax_roipool import partitioning, primitive, reference

PORTABLE = "portable"
KERNELS = "kernels"
_CPU_TARGET_VARIABLE = "JAX_ROIPOOL_CPU_TARGET"
_CUDA_TARGET_VARIABLE = "JAX_ROIPOOL_CUDA_TARGET"

_OPS = {
    "roi_pool": primitive.roi_pool_p,
    "roi_pool_argmax": primitive.roi_pool_argmax_p,
    "roi_gather": primitive.roi_gather_p,
    "roi_scatter": primitive.roi_scatter_p,
}
_ON_DEVICE = {op: primitive.on_device(bound) for op, bound in _OPS.items()}


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


def _built(name: str) -> bool:
    """Whether this installation has that module of kernels."""
    return importlib.util.find_spec(f"jax_roipool.{name}") is not None


def _load_module(name: str, platform: str) -> tuple[Any, str]:
    """A module with kernels, or None and why it cannot be used."""
    kernels = f"the {platform} kernels"
    if not _built(name):
        return None, f"this installation of jax_roipool has no {platform} kernels"
    try:
        module = importlib.import_module(f"jax_roipool.{name}")
    except ImportError as error:
        return None, f"{kernels} do not load: {error}"
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
            f"{kernels} were compiled for XLA FFI {compiled[0]}.{compiled[1]} "
            f"and the installed jaxlib {jaxlib} speaks {running[0]}.{running[1]}; "
            "upgrade jaxlib, or reinstall jax_roipool from a build against this "
            "jaxlib"
        )
    return module, ""


def _register_targets(module: Any, platform: str) -> None:
    for name, capsule in module.ffi_targets().items():
        jax.ffi.register_ffi_target(name, capsule, platform=platform)


class _Cpu:
    """The CPU kernels and the instruction set in use."""

    def __init__(self) -> None:
        self.module, self.problem = _load_module("_cpu", "CPU")
        if self.module is not None:
            _register_targets(self.module, "cpu")
        self.target = PORTABLE if self.module is None else self.module.isa()

    def supported(self) -> tuple[str, ...]:
        if self.module is None:
            return (PORTABLE,)
        return (*self.module.supported_isas(), PORTABLE)

    def use(self, target: str) -> None:
        if target not in self.supported():
            raise ValueError(
                f"CPU target {target!r} is not available here; available: "
                f"{', '.join(self.supported())}"
            )
        if target != PORTABLE:
            self.module.set_isa(target)
        # Compiled programs call the kernels, which look the target up, or they
        # hold the plain JAX.
        recompile = PORTABLE in (target, self.target) and target != self.target
        self.target = target
        if recompile:
            jax.clear_caches()


class _Cuda:
    """The CUDA kernels, which are loaded when something asks for them."""

    def __init__(self) -> None:
        self.module: Any = None  # once `problem` is known to be none
        self.target = KERNELS
        self._warned = False

    @functools.cached_property
    def problem(self) -> str:
        """Why the kernels cannot be used; empty where they can."""
        module, problem = _load_module("_cuda", "CUDA")
        if problem:
            return problem
        # A machine without a driver can still lower programs for another.
        driver, toolkit = module.driver_version(), module.CUDA_VERSION
        if driver and driver // 1000 < toolkit // 1000:
            return (
                f"the CUDA kernels were compiled with CUDA {_cuda_version(toolkit)} "
                f"and the installed driver supports {_cuda_version(driver)}; "
                f"upgrade the driver{_DRIVERS.get(toolkit // 1000, '')}"
            )
        _register_targets(module, "CUDA")
        self.module = module
        return ""

    def usable(self) -> bool:
        if self.target == PORTABLE:
            return False
        self.warn()
        return not self.problem

    def warn(self) -> None:
        """Says once why kernels that are built are not used."""
        if self.problem and not self._warned and _built("_cuda"):
            self._warned = True
            warnings.warn(
                "jax_roipool uses its slower plain-JAX lowering on CUDA: "
                f"{self.problem}",
                stacklevel=2,
            )

    def use(self, target: str) -> None:
        available = (PORTABLE,) if self.problem else (KERNELS, PORTABLE)
        if target not in available:
            raise ValueError(
                f"CUDA target {target!r} is not available here "
                f"({self.problem or 'there is no such target'}); available: "
                f"{', '.join(available)}"
            )
        if target != self.target:
            self.target = target
            jax.clear_caches()


# The first drivers of a CUDA version.
_DRIVERS = {12: " to 525 or newer", 13: " to 580 or newer"}


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _jax_has_cuda() -> bool:
    """Whether jax's plugin for CUDA is installed, found without starting it."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return any(plugin.name.startswith("xla_cuda") for plugin in plugins)


_cpu = _Cpu()
_cuda = _Cuda()


def cpu_target() -> str:
    """The instruction set of the CPU kernels in use, or "portable"."""
    return _cpu.target


def supported_cpu_targets() -> tuple[str, ...]:
    """What `set_cpu_target` takes on this machine, best first."""
    return _cpu.supported()


def built_cpu_targets() -> tuple[str, ...]:
    """The instruction sets that the installed kernels were compiled for."""
    return () if _cpu.module is None else tuple(_cpu.module.built_isas())


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


def cuda_problem() -> str:
    """Why the CUDA kernels cannot be used; empty where they can."""
    return _cuda.problem


def cuda_target() -> str:
    """What programs for CUDA call: "kernels", or "portable" for plain JAX."""
    return PORTABLE if _cuda.problem else _cuda.target


def cuda_build() -> str:
    """What the CUDA kernels were compiled for, and the driver that is here."""
    if cuda_problem():
        return ""
    driver = _cuda.module.driver_version()
    return (
        f"kernels, CUDA {_cuda_version(_cuda.module.CUDA_VERSION)} for "
        f"{_cuda.module.ARCHITECTURES}; "
        f"{f'driver for CUDA {_cuda_version(driver)}' if driver else 'no driver here'}"
    )


def set_cuda_target(target: str) -> None:
    """Uses the CUDA kernels, or plain JAX, from now on; as `set_cpu_target`.

    Args:
      target: "kernels" or "portable".

    Raises:
      ValueError: This installation has no kernels for CUDA that can be used.
    """
    _cuda.use(target)


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


def _lower_bare(function: Callable[..., Any], multiple_results: bool) -> Any:
    """The lowering to what `function` does, traced on bare shapes.

    The primitive has said how its result is sharded and over which manual axes it
    varies; operations inside, which see one array replicated and another sharded,
    would refuse or need casts.
    """
    lower = mlir.lower_fun(function, multiple_results=multiple_results)

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        bare = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in]
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            return lower(ctx.replace(avals_in=bare), *operands, **params)

    return rule


def _portable(op: str) -> Callable[..., Any]:
    """The lowering of an op to its plain JAX."""
    rule: Callable[..., Any] = _lower_bare(
        getattr(reference, op), _OPS[op].multiple_results
    )
    return rule


def cpu_kernel(op: str) -> Callable[..., Any]:
    """The lowering of an op to a call of its CPU kernel."""
    call: Callable[..., Any] = jax.ffi.ffi_lowering(_target_name(op))

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        return call(ctx, *operands, **_attributes(params))

    return rule


def cuda_kernel(op: str, target_name: str | None = None) -> Callable[..., Any]:
    """The lowering of an op to a call of its CUDA kernel.

    That allocates nothing, which a CUDA graph would not forgive: scatter's
    workspace, two numbers for each RoI, is one more result of the call.
    """
    call: Callable[..., Any] = jax.ffi.ffi_lowering(target_name or _target_name(op))

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        results = list(ctx.avals_out)
        if op == "roi_scatter":
            _, image, _ = ctx.avals_in
            results.append(jax.core.ShapedArray((*image.shape, 2), np.int32))
        called = call(ctx.replace(avals_out=results), *operands, **_attributes(params))
        return list(called)[: len(ctx.avals_out)]

    return rule


def _over_devices(op: str, local: Callable[..., Any]) -> Callable[..., Any]:
    """`local`, and for a program of several devices a call that can be sharded."""

    def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
        if not partitioning.can_partition(ctx.module_context.axis_context):
            return local(ctx, *operands, **params)
        ndims = tuple(aval.ndim for aval in ctx.avals_in)
        function = partitioning.partitioned(op, _ON_DEVICE[op], ndims, **params)
        return _lower_bare(function, _OPS[op].multiple_results)(ctx, *operands)

    return rule


def register(op: str) -> None:
    """Gives an op's primitive its lowerings, for every platform."""
    portable, cpu, cuda = _portable(op), cpu_kernel(op), cuda_kernel(op)

    def lower_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        rule = portable if _cpu.target == PORTABLE else cpu
        return rule(ctx, *operands, **params)

    def lower_cuda(ctx: Any, *operands: Any, **params: Any) -> Any:
        rule = cuda if _cuda.usable() else portable
        return rule(ctx, *operands, **params)

    rules = {None: portable, "cpu": lower_cpu}
    if _built("_cuda"):
        rules["cuda"] = lower_cuda
    for platform, rule in rules.items():
        mlir.register_lowering(_ON_DEVICE[op], rule, platform=platform)
        mlir.register_lowering(_OPS[op], _over_devices(op, rule), platform=platform)


mlir.register_lowering(
    primitive.roi_scatter_sum_p,
    _lower_bare(
        functools.partial(partitioning.scatter_and_sum, _ON_DEVICE["roi_scatter"]),
        multiple_results=False,
    ),
)

# JAX tells a lowering which devices it is for, and custom_partitioning needs to
# know, only if the primitive is in this set; there is no public name for it.
dispatch.prim_requires_devices_during_lowering.update(_OPS.values())

for _op in _OPS:
    register(_op)

if _cpu.problem:
    warnings.warn(
        f"jax_roipool uses its slower plain-JAX lowering on CPU: {_cpu.problem}",
        stacklevel=2,
    )
if _built("_cuda") and _jax_has_cuda():
    _cuda.warn()  # loads them: an exported program may be what calls them first
for _variable, _platform in (
    (_CPU_TARGET_VARIABLE, _cpu),
    (_CUDA_TARGET_VARIABLE, _cuda),
):
    if _variable in os.environ:
        try:
            _platform.use(os.environ[_variable])
        except ValueError as error:
            raise ValueError(f"environment variable {_variable}: {error}") from None
