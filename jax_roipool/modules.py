"""What the Flax modules of both APIs share: fields in, one call out."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jax import Array

# Fields of flax.linen.Module itself.
_OF_LINEN = ("parent", "name")


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


def static_arguments(module: Any) -> dict[str, Any]:
    """The fields of a module, which are the static arguments of its function."""
    names = [field.name for field in dataclasses.fields(module)]
    return {name: getattr(module, name) for name in names if name not in _OF_LINEN}


def make_hashable(module: Any) -> None:
    """Turns lists into tuples: modules are static to `jit`, and compared."""
    for name, value in static_arguments(module).items():
        if isinstance(value, list):
            setattr(module, name, tuple(value))


def call(function: Callable[..., Array], module: Any, *args: Any, **arrays: Any) -> Any:
    """The function of arrays, with the module's fields."""
    return function(*args, **arrays, **static_arguments(module))
