"""Checks of arguments that several files need."""

import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from jax_roipool.arguments import refuse_mask


def number(name: str, value: Any) -> float:
    """The value as a float, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def instance(name: str, value: Any, kind: type) -> None:
    """Raises TypeError where the value is no `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__}, got {value!r:.80}")


def _has_order(name: str, value: Any, what: str) -> None:
    # The keys of a dict have one.
    if isinstance(value, set | frozenset):
        raise TypeError(f"{name} must be {what}, got a set, which has no order")


def ordered(name: str, value: Any, what: str) -> list[Any]:
    """The items of a value that has an order; `what` it must be, such as "a list"."""
    _has_order(name, value, what)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be {what}, got {value!r:.80}")
    return list(value)


def array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """The value as an array, if it has an order and is no nest of unequal lists."""
    _has_order(name, value, "an array")
    refuse_mask(name, value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None


def path(name: str, value: Any, what: str = "a path") -> str:
    """The value as a path, if the system could have such a file."""
    try:
        text = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} must be {what}, got {type(value).__name__}") from None
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise ValueError(f"{name} must be {what}, got {text!r:.80}")
    return text
