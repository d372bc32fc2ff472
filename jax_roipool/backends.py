"""Modules of compiled kernels: loading them, and which of their code runs.

The CPU kernels are compiled for several instruction sets and the best one that the
CPU has is taken. The environment variable `JAX_ROIPOOL_CPU_TARGET` forces one
("baseline", "avx2", "avx512"), or plain JAX ("plain"), as `JAX_ROIPOOL_CUDA_TARGET`
does on CUDA ("kernels", "plain").
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import warnings
from typing import Any

import jax

# What runs, where no kernels do.
PLAIN = "plain"


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


class Backend:
    """The kernels of a platform, and what programs for it run.

    Attributes:
      name: The platform in words.
      variable: The environment variable that forces a choice.
    """

    name: str
    variable: str
    _module_name: str
    _platform: str  # as XLA's FFI calls it
    _remedy: str  # where there are none

    def __init__(self) -> None:
        self._forced: str | None = None
        self._warned = False

    # --- Loading

    @property
    def built(self) -> bool:
        """Whether this installation has the module, loaded or not."""
        return importlib.util.find_spec(f"jax_roipool.{self._module_name}") is not None

    @functools.cached_property
    def _loaded(self) -> tuple[Any, str]:
        """The module, its targets registered, or why it cannot be used."""
        module, problem = self._load()
        problem = problem or self._problem_of(module)
        if problem:
            return None, problem
        for name, capsule in module.ffi_targets().items():
            jax.ffi.register_ffi_target(name, capsule, platform=self._platform)
        return module, ""

    def _load(self) -> tuple[Any, str]:
        kernels = f"the {self.name} kernels"
        if not self.built:
            return None, (
                f"this installation of jax_roipool has no {self.name} kernels; "
                f"{self._remedy}"
            )
        try:
            module = importlib.import_module(f"jax_roipool.{self._module_name}")
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

    def _problem_of(self, module: Any) -> str:
        """What else there is against a module that loads."""
        return ""

    @property
    def problem(self) -> str:
        """Why the kernels cannot be used; empty where they can. Loads them."""
        return str(self._loaded[1])

    # --- Choosing

    def choices(self) -> tuple[str, ...]:
        """What `use` takes on this machine, best first."""
        return (PLAIN,) if self.problem else (*self._kernels(), PLAIN)

    @property
    def choice(self) -> str:
        """What runs: one of `choices`."""
        return self._forced or self.choices()[0]

    def use(self, choice: str) -> None:
        """Runs something else from now on.

        For tests and for tracking down a difference; meant to be called from one
        thread. A change to or from plain JAX drops everything JAX has compiled,
        because compiled programs keep what they were lowered to.

        Args:
          choice: One of `choices()`.

        Raises:
          ValueError: This machine or this installation has no such choice.
        """
        # As the first version called it.
        choice = PLAIN if choice == "portable" else choice
        if choice not in self.choices():
            reason = f" ({self.problem})" if self.problem else ""
            raise ValueError(
                f"{choice!r} is not available on {self.name} here{reason}; available: "
                f"{', '.join(self.choices())}"
            )
        before, self._forced = self.choice, choice
        if choice != PLAIN:
            self._choose_kernels(choice)
        if PLAIN in (choice, before) and choice != before:
            jax.clear_caches()

    def use_what_environment_says(self) -> None:
        """Obeys `variable` where it is set."""
        if self.variable in os.environ:
            try:
                self.use(os.environ[self.variable])
            except ValueError as error:
                raise ValueError(
                    f"environment variable {self.variable}: {error}"
                ) from None

    def runs_kernel(self, target: str) -> bool:
        """Whether programs that are compiled now call the kernel of that name."""
        if self._forced == PLAIN:
            return False
        self.warn()
        return not self.problem and target in self._targets

    @functools.cached_property
    def _targets(self) -> frozenset[str]:
        return frozenset(self._loaded[0].ffi_targets())

    def warn(self, stacklevel: int = 2) -> None:
        """Says once why kernels are not used that should be there."""
        if self.problem and not self._warned:
            self._warned = True
            warnings.warn(
                f"jax_roipool uses its slower plain-JAX lowering on {self.name}: "
                f"{self.problem}",
                stacklevel=stacklevel + 1,
            )

    def _kernels(self) -> tuple[str, ...]:
        """The choices of kernels."""
        raise NotImplementedError

    def _choose_kernels(self, choice: str) -> None:
        """Makes them those that run."""

    # --- Telling

    def describe(self) -> list[str]:
        """Lines of `python -m jax_roipool` about it."""
        if self.problem:
            return [f"plain JAX: {self.problem}"]
        return ["plain JAX, forced"] if self.choice == PLAIN else []


class _Cpu(Backend):
    name, variable = "CPU", "JAX_ROIPOOL_CPU_TARGET"
    _module_name, _platform = "_cpu", "cpu"
    _remedy = "`pip install .` in a clone builds them, with a C++17 compiler"

    @property
    def isas(self) -> tuple[str, ...]:
        """The instruction sets that the kernels were compiled for, best first."""
        return () if self.problem else tuple(self._loaded[0].built_isas())

    def _kernels(self) -> tuple[str, ...]:
        return tuple(self._loaded[0].supported_isas())

    def _choose_kernels(self, choice: str) -> None:
        self._loaded[0].set_isa(choice)

    def describe(self) -> list[str]:
        lines = super().describe() or [f"kernels, {self.choice}"]
        if not self.problem:
            lines.append(
                f"built: {', '.join(self.isas)}; this CPU runs: "
                f"{', '.join(self._kernels())}; choose with {self.variable}"
            )
        return lines


class _Cuda(Backend):
    """Loaded when something asks for them: a program for CUDA, or a report."""

    name, variable = "CUDA", "JAX_ROIPOOL_CUDA_TARGET"
    _module_name, _platform = "_cuda", "CUDA"
    _remedy = (
        "`pip install '.[cuda13]' -C cmake.define.JAX_ROIPOOL_CUDA=ON` in a clone "
        "builds them"
    )

    def _problem_of(self, module: Any) -> str:
        # A machine without a driver can still lower programs for another.
        driver, toolkit = module.driver_version(), module.CUDA_VERSION
        if driver and driver // 1000 < toolkit // 1000:
            return (
                f"the CUDA kernels were compiled with CUDA {_version(toolkit)} "
                f"and the installed driver supports {_version(driver)}; "
                f"upgrade the driver{_DRIVERS.get(toolkit // 1000, '')}"
            )
        return ""

    def _kernels(self) -> tuple[str, ...]:
        return ("kernels",)

    def describe(self) -> list[str]:
        if lines := super().describe():
            return lines
        module = self._loaded[0]
        driver = module.driver_version()
        here = f"driver for CUDA {_version(driver)}" if driver else "no driver here"
        return [
            f"kernels, CUDA {_version(module.CUDA_VERSION)} for "
            f"{module.ARCHITECTURES}; {here}"
        ]


# The first drivers of a CUDA version.
_DRIVERS = {12: " to 525 or newer", 13: " to 580 or newer"}


def _version(number: int) -> str:
    """As CUDA counts: 13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _jax_has_cuda() -> bool:
    """Whether jax's plugin for CUDA is installed, found without starting it."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return any(plugin.name.startswith("xla_cuda") for plugin in plugins)


CPU, CUDA = _Cpu(), _Cuda()


def start() -> None:
    """Loads what programs may call at once, and obeys the environment."""
    if os.environ.get(CPU.variable) not in (PLAIN, "portable"):
        CPU.warn(stacklevel=3)
    if CUDA.built and _jax_has_cuda():
        CUDA.warn(stacklevel=3)  # an exported program may be what calls them first
    for backend in (CPU, CUDA):
        backend.use_what_environment_says()
