"""A progress bar for scans that take long."""

from collections.abc import Iterable, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _SizedIterable(Sized, Iterable[T_co], Protocol[T_co]): ...


def progress(items: _SizedIterable[T], what: str, unit: str) -> Iterable[T]:
    """The items; where they take over two seconds, a bar on a terminal's stderr.

    Where standard error is no terminal, or tqdm is not installed, there is none.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=what, unit=unit, delay=2, disable=None, leave=False)
