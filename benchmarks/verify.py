"""Everybody's first call: is the result right, and how much memory did it take?

That is found out in a process of its own, whose malloc maps every larger block
anew and unmaps it when it is freed. There the peak of a call is its own, and a
call that writes nothing finds zeros: in a process that keeps freed memory it may
find the right answer, left behind by the contestant before it.
"""

import concurrent.futures
import ctypes
import dataclasses
import gc
import multiprocessing
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from inputs import WrongAnswer
from lineup import Settings, line_up
from measure import progress, progress_ends
from workloads import Workload

# glibc's; smaller blocks than any result.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}


@dataclasses.dataclass
class FirstCall:
    """What there is to say of a contestant before it is timed.

    Attributes:
      note: Of its result.
      peak_bytes: Resident memory that the call added at its peak, or None where
        the system does not tell (Linux does).
    """

    note: str
    peak_bytes: int | None


class Verifier:
    """The process in which first calls are made."""

    def __enter__(self) -> "Verifier":
        before = dict(os.environ)
        os.environ.update(_MALLOC)  # read when a process starts: not by this one
        try:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn")
            )
            self._pool.submit(int).result()  # starts it
        finally:
            os.environ.clear()
            os.environ.update(before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def first_calls(
        self, load: Workload, settings: Settings, label: str
    ) -> dict[str, FirstCall]:
        """Contestant -> what was found out; raises `inputs.WrongAnswer`."""
        return self._pool.submit(_first_calls, load, settings, label).result()


def _first_calls(
    load: Workload, settings: Settings, label: str
) -> dict[str, FirstCall]:
    progress(f"{label}: preparing to check")
    waiting = line_up(load, settings).everybody()
    found = {}
    while waiting:
        contestant = waiting.pop(0)  # its arrays are freed when it is done
        progress(f"{label}: checking {contestant.name}")
        result, peak = _call_and_peak(contestant.calls[0])
        try:
            found[contestant.name] = FirstCall(contestant.check(result), peak)
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{label}, {contestant.name}: {wrong}") from None
        finally:
            del result
            progress_ends()
    return found


def _call_and_peak(call: Callable[[], Any]) -> tuple[Any, int | None]:
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # or smaller blocks, freed before, would be freed meanwhile
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")  # the peak is now what is resident
        before = _resident("VmRSS")
    except OSError:
        return call(), None
    result = call()
    return result, max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")
