"""Timing contestants, call by call."""

import dataclasses
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_SECOND = 1e3  # milliseconds


@dataclasses.dataclass
class Contestant:
    """Somebody's way of answering a call.

    Attributes:
      name: What its row in the table is called.
      calls: One per input, to be rotated: computes, waits, and gives the result.
      check: Says what is to be said of the first call's result, or raises
        `inputs.WrongAnswer`.
      limit: The limit that its time is compared with; see limit.py.
      times: Of each call that counts, in milliseconds.
      cpu_times: The time that the process's threads ran meanwhile. Where the machine
        is busy with other things, it says more.
      fastest: Of all calls.
    """

    name: str
    calls: Sequence[Callable[[], Any]]
    check: Callable[[Any], str]
    limit: str = ""
    times: list[float] = dataclasses.field(default_factory=list)
    cpu_times: list[float] = dataclasses.field(default_factory=list)
    fastest: float = math.inf

    @property
    def median(self) -> float:
        """Milliseconds."""
        return float(np.median(self.times))

    def milliseconds(self, number: int, counts: bool = False) -> float:
        """How long the call of that number takes now."""
        before, cpu_before = time.perf_counter(), time.process_time()
        result = self.calls[number]()
        after, cpu_after = time.perf_counter(), time.process_time()
        del result  # freed when the clock has stopped
        taken = (after - before) * 1e3
        self.fastest = min(self.fastest, taken)
        if counts:
            self.times.append(taken)
            self.cpu_times.append((cpu_after - cpu_before) * 1e3)
        return taken


def time_in_turns(
    contestants: Sequence[Contestant], seconds: float, label: str, least: int = 5
) -> None:
    """Times calls until `seconds` are over, and for `least` turns at least.

    Everybody takes turns. In each, a contestant first makes calls that do not
    count, until one is about as fast as its fastest so far, or three; what takes
    seconds makes none after the first turn. Caches, and the memory that the kernel
    has ready, are then in the state that its own calls leave behind. Then it makes
    one call per input.
    """
    gc.disable()
    start, shown, turn = time.perf_counter(), 0.0, 0
    while turn < least or (time.perf_counter() - start < seconds and turn < 500):
        for place, contestant in enumerate(contestants):
            for _ in range(3):
                known = contestant.fastest
                if _SECOND < known < math.inf:
                    break
                if contestant.milliseconds(-1) <= 1.3 * known < math.inf:
                    break
            for number in range(len(contestant.calls)):
                contestant.milliseconds(number, counts=True)
            if time.perf_counter() - shown > 0.1:
                shown = time.perf_counter()
                turns = turn + (place + 1) / len(contestants)
                spent = (shown - start) / max(seconds, 1e-9)
                progress(label, min(spent, turns / least, 1))
        turn += 1
    gc.enable()
    progress_ends()


def progress(label: str, done: float | None = None) -> None:
    """Draws a bar over the last one, where somebody is watching."""
    if sys.stderr.isatty():
        bar = "" if done is None else f"[{'#' * int(30 * done):30}]"
        print(f"\r{label:46.46} {bar:32}", end="", file=sys.stderr, flush=True)


def progress_ends() -> None:
    """Clears the bar's line."""
    if sys.stderr.isatty():
        print(f"\r{'':79}\r", end="", file=sys.stderr, flush=True)
