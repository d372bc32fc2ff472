"""Timing calls on a GPU, whoever makes them.

A row of the table is a list of calls, one for each set of inputs, that start work
and return what it will leave. Time on the device comes from a profiler; beside it
stands the wall time of calls that are queued one after another, which is that of
the host where calls are short.
"""

import collections
import ctypes
import dataclasses
import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import gpu_trace
import numpy as np
from gpu_trace import Event

PAUSE = 0.05  # seconds between rows of one profile
_MOST_SETS = 1000
_L2_UNKNOWN = 128 << 20  # larger than any so far
_L2_ATTRIBUTE = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE


@dataclasses.dataclass
class Row:
    """Something to time.

    Attributes:
      name: Of its row in the table.
      mode: "forward", "argmax" or "backward".
      dtype: Of the features.
      bytes: That must move; see `floors`.
      calls: One for each set of inputs, to be rotated.
      note: What is to be said of it.
    """

    name: str
    mode: str
    dtype: str
    bytes: int
    calls: Sequence[Callable[[], Any]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Profiler:
    """A framework's: `record` gives the events of what it runs, `wait` waits."""

    record: Callable[[Callable[[], None]], list[Event]]
    wait: Callable[[Any], Any]


def l2_bytes() -> int:
    """The size of the first GPU's L2 cache, as the driver tells it."""
    device, size = ctypes.c_int(), ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _L2_UNKNOWN
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetAttribute(ctypes.byref(size), _L2_ATTRIBUTE, device)
    )
    return size.value if not failed and size.value > 0 else _L2_UNKNOWN


def sets_needed(call_bytes: int, l2: int) -> int:
    """Sets of inputs whose calls move more than twice what L2 holds."""
    return min(max(2, math.ceil(2 * l2 / max(call_bytes, 1)) + 1), _MOST_SETS)


def measure(rows: Sequence[Row], profiler: Profiler, seconds: float) -> list[Any]:
    """The numbers of every row, for the table and the JSON.

    As many results are kept as there are sets, so that they lie in memory of
    their own, too.
    """
    gc.collect()
    gc.disable()
    try:
        queued = [_queued(row, profiler, seconds / len(rows) / 3) for row in rows]
        counts = [
            _calls(row, us, seconds / len(rows)) for row, us in _zip(rows, queued)
        ]
        runs = [
            lambda row=row, count=count: profiler.wait(_rotate(row, count))
            for row, count in _zip(rows, counts)
        ]
        parts = _profiled(runs, profiler)
    finally:
        gc.enable()
    return [
        _numbers(row, part, count, us)
        for row, part, count, us in _zip(rows, parts, counts, queued)
    ]


def _zip(*lists: Sequence[Any]) -> Any:
    """`zip` of lists of one length."""
    return zip(*lists, strict=True)


def _rotate(row: Row, count: int) -> Any:
    kept: collections.deque[Any] = collections.deque(maxlen=len(row.calls))
    for number in range(count):
        kept.append(row.calls[number % len(row.calls)]())
    return list(kept)


def _queued(row: Row, profiler: Profiler, seconds: float) -> float:
    """Microseconds of wall time of a call among many, best of three."""
    profiler.wait(_rotate(row, min(len(row.calls), 3)))  # compiles, loads, warms
    start = time.perf_counter()
    profiler.wait(_rotate(row, 3))
    count = _calls(row, (time.perf_counter() - start) / 3 * 1e6, seconds / 3)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        profiler.wait(_rotate(row, count))
        best = min(best, (time.perf_counter() - start) / count * 1e6)
    return best


def _calls(row: Row, us: float, seconds: float) -> int:
    """How many of `us` microseconds to make in about `seconds`."""
    least = 20 if us < 20e3 else 3
    return int(max(min(seconds * 1e6 / us, 300), len(row.calls), least))


def _profiled(
    runs: Sequence[Callable[[], Any]], profiler: Profiler
) -> list[list[Event]]:
    """Each run's events: of one profile, told apart by the pauses between them."""

    def all_runs() -> None:
        for number, run in enumerate(runs):
            if number:
                time.sleep(PAUSE)
            run()

    events = profiler.record(all_runs)
    if len(runs) == 1:
        return [events]
    parts = gpu_trace.split(events, PAUSE / 2 * 1e6)
    if len(parts) == len(runs):
        return parts
    # Something else paused, or left nothing: each on its own.
    return [part for run in runs for part in _profiled([run], profiler)]


def _numbers(row: Row, events: list[Event], count: int, queued: float) -> Any:
    numbers: dict[str, Any] = {
        "name": row.name,
        "mode": row.mode,
        "dtype": row.dtype,
        "bytes": row.bytes,
        "sets": len(row.calls),
        "calls": count,
        "queued_us": queued,
    }
    notes = [row.note] if row.note else []
    if events:
        times = gpu_trace.per_call(events, count)
        numbers |= {
            "median_us": float(np.median(times)),
            "min_us": min(times),
            "kernels_us": gpu_trace.by_name(events, count),
        }
        if len(times) == 1 < count:
            notes.append("mean of calls that are not alike")
    else:
        numbers |= {"median_us": queued, "min_us": queued, "kernels_us": {}}
        notes.append("the profiler saw nothing on the device: wall time")
    if notes:
        numbers["note"] = "; ".join(notes)
    return numbers
