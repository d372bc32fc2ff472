"""Checks of arguments that several files need."""

from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int) -> int:
    """The value as an int, if it is one and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
