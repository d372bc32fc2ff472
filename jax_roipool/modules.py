"""Flax modules of the ops, for both of Flax's APIs: fields in, one call out.

A module has a field for each static argument of its function, by the same name and
with the same default, and is called with the arrays.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jax import Array

from jax_roipool.arguments import ArrayLike, Features
from jax_roipool.ops.roi_align import roi_align
from jax_roipool.ops.roi_average_pool import roi_average_pool
from jax_roipool.ops.roi_pool import roi_pool

_ARRAYS = ("features", "rois", "levels", "valid")

_DOC = """`jax_roipool.{function}` with its static arguments as fields.

Attributes:
{fields}

Example:
  >>> import jax.numpy as jnp
  >>> from {module} import {name}
  >>> pool = {name}((7, 7), spatial_scale=1 / 16)
  >>> features = jnp.ones((1, 38, 63, 8))
  >>> rois = jnp.array([[0, 16.0, 16.0, 240.0, 320.0]])
  >>> {call}features, rois).shape
  (1, 7, 7, 8)
"""


@contextmanager
def needs_flax(module: str) -> Iterator[None]:
    """Says what to install where an import finds no flax."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "flax":
            raise
        raise ModuleNotFoundError(
            f"{module} needs flax, which is not installed: pip install flax",
            name="flax",
        ) from error


def _hashable(value: Any) -> Any:
    """Tuples for lists: modules are static to `jit`, and compared."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _make(
    name: str, function: Callable[..., Array], base: Any, module: str, call: str
) -> Any:
    """The module of a function, by its signature and its docstring."""
    fields = {
        key: parameter
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in _ARRAYS
    }

    class Module(base):
        def __post_init__(self) -> None:
            for key in fields:
                setattr(self, key, _hashable(getattr(self, key)))
            if hasattr(super(), "__post_init__"):
                super().__post_init__()

        def __call__(
            self,
            features: Features,
            rois: ArrayLike,
            *,
            levels: ArrayLike | None = None,
            valid: ArrayLike | None = None,
        ) -> Array:
            """Calls the function; the arrays are described there."""
            static = {key: getattr(self, key) for key in fields}
            return function(features, rois, levels=levels, valid=valid, **static)

    described = inspect.getdoc(function) or ""
    entries = [
        re.search(rf"^  {key}: .*(\n    .*)*", described, re.MULTILINE)
        for key in fields
    ]
    namespace: dict[str, Any] = {
        "__annotations__": {key: x.annotation for key, x in fields.items()},
        "__module__": module,
        "__qualname__": name,
        "__doc__": _DOC.format(
            function=function.__name__,
            fields="\n".join(entry[0] for entry in entries if entry),
            module=module,
            name=name,
            call=call,
        ),
    }
    for key, parameter in fields.items():
        if parameter.default is not parameter.empty:
            namespace[key] = parameter.default
    return type(name, (Module,), namespace)


def make_all(base: Any, module: str, call: str) -> dict[str, Any]:
    """The modules of all ops, by name.

    Args:
      base: Flax's `Module`.
      module: The name of the Python module that they stand in.
      call: How their example begins to call one named `pool`.
    """
    functions = {
        "RoIAlign": roi_align,
        "RoIAveragePool": roi_average_pool,
        "RoIPool": roi_pool,
    }
    return {
        name: _make(name, function, base, module, call)
        for name, function in functions.items()
    }
