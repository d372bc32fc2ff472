"""NumPy and JAX alike: what all functions of boxes share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool.arguments import is_real, refuse_mask

ONE, ZERO, HALF = np.float32(1), np.float32(0), np.float32(0.5)


def namespace(*arrays: Any) -> Any:
    """jax.numpy where any of the arrays is JAX's, else numpy."""
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def as_real(name: str, value: Any) -> Any:
    """`value` as an array of real numbers: float32, or JAX's of any dtype.

    What is JAX's already becomes float32 where it is computed with (`compiled`):
    outside of `jit`, `debug_nans` would refuse the NaN of a padded box.
    """
    if type(value) is np.ndarray and value.dtype == np.float32:
        return value  # what follows takes longer than some boxes' arithmetic
    refuse_mask(name, value)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not is_real(array.dtype):
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if isinstance(array, jax.Array):
        return array
    # Here, as JAX without 64-bit types would wrap integers around.
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: infinite
        return array.astype(np.float32)


def as_boxes(name: str, value: Any, least_ndim: int = 1) -> Any:
    """`value` as boxes [..., 4], with at least so many axes."""
    boxes = as_real(name, value)
    if boxes.ndim < least_ndim or boxes.shape[-1] != 4:
        axes = "..., N, 4" if least_ndim == 2 else "..., 4"
        raise ValueError(
            f"{name} must have shape [{axes}] = (x1, y1, x2, y2), got {boxes.shape}"
        )
    return boxes


def as_classes_of_boxes(name: str, value: Any) -> Any:
    """`value` as [..., 4 * K]: a box for each of K classes."""
    array = as_real(name, value)
    if array.ndim == 0 or array.shape[-1] % 4:
        raise ValueError(
            f"{name} must have shape [..., 4 * K], four numbers per class, got "
            f"{array.shape}"
        )
    return array


def split_classes(array: Any) -> Any:
    """[..., 4 * K] as [..., K, 4]."""
    return array.reshape(*array.shape[:-1], array.shape[-1] // 4, 4)


def join_classes(array: Any) -> Any:
    """[..., K, 4] as [..., 4 * K]; of no boxes too, where -1 has no answer."""
    return array.reshape(*array.shape[:-2], 4 * array.shape[-2])


def match_ranks(*arrays: Any) -> list[Any]:
    """The arrays with as many axes each, new ones in front; `None` stays.

    For broadcasting, which under `jax_numpy_rank_promotion="raise"` adds none.
    """
    ndim = max(x.ndim for x in arrays if x is not None)
    return [
        None if x is None else x.reshape((1,) * (ndim - x.ndim) + x.shape)
        for x in arrays
    ]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of float32 arrays, as one program where any of them is JAX's.

    Called outside `jit`, its operations would be compiled and run one by one. It
    is given what computes, NumPy or `jax.numpy`, as `xp`.
    """

    @functools.partial(jax.jit, static_argnames="options")
    def run(arrays: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Any:
        wide = [None if x is None else x.astype(jnp.float32) for x in arrays]
        return function(*wide, xp=jnp, **dict(options))

    @functools.wraps(function)
    def call(*arrays: Any, **options: Any) -> Any:
        if namespace(*arrays) is jnp:
            return run(arrays, tuple(options.items()))
        with np.errstate(all="ignore"):  # infinite and NaN corners are answered
            return function(*arrays, xp=np, **options)

    return call
