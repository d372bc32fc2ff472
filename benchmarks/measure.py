"""Timing contestants, call by call."""

import dataclasses
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


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
      fastest: Of all calls.
    """

    name: str
    calls: Sequence[Callable[[], Any]]
    check: Callable[[Any], str]
    limit: str = ""
    times: list[float] = dataclasses.field(default_factory=list)
    fastest: float = math.inf

    @property
    def median(self) -> float:
        """Milliseconds."""
        return float(np.median(self.times))

    def milliseconds(self, number: int) -> float:
        """How long the call of that number takes now."""
        before = time.perf_counter()
        result = self.calls[number]()
        after = time.perf_counter()
        del result  # freed when the clock has stopped
        taken = (after - before) * 1e3
        self.fastest = min(self.fastest, taken)
        return taken


def time_in_turns(
    contestants: Sequence[Contestant], seconds: float, label: str, least: int = 5
) -> None:
    """Times calls until `seconds` are over, and for `least` turns at least.

    Everybody takes turns. In each, a contestant first makes calls that do not
    count, until one is about as fast as its fastest so far, or three. Caches,
    and the memory that the kernel has ready, are then in the state that its own
    calls leave behind. Then it makes one call per input.
    """
    gc.disable()
    start, shown, turn = time.perf_counter(), 0.0, 0
    while turn < least or (time.perf_counter() - start < seconds and turn < 500):
        for place, contestant in enumerate(contestants):
            for _ in range(3):
                known = contestant.fastest
                if contestant.milliseconds(-1) <= 1.3 * known < math.inf:
                    break
            for number in range(len(contestant.calls)):
                contestant.times.append(contestant.milliseconds(number))
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
