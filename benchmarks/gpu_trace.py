"""Device time out of profiles: every kernel, memset and copy, call by call."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

# Copies between host and device are no part of an op whose operands and results
# lie on the device.
_HOST_COPIES = ("MemcpyH2D", "MemcpyD2H", "Memcpy HtoD", "Memcpy DtoH")


@dataclasses.dataclass(frozen=True)
class Event:
    """What the device did: its name, when it began, how long; microseconds."""

    name: str
    start: float
    duration: float


def of_jax(profile: Any) -> list[Event]:
    """The device's events of a `jax.profiler.ProfileData`, in their order.

    Streams are the device's own lines. Others that may stand beside them (XLA's
    modules and ops) tell the same time again.
    """
    return _in_order(
        Event(event.name, event.start_ns / 1e3, event.duration_ns / 1e3)
        for plane in profile.planes
        if plane.name.startswith("/device:GPU:")
        for line in plane.lines
        if line.name.startswith("Stream #")
        for event in line.events
    )


def of_torch(trace: Any) -> list[Event]:
    """The device's events of what torch's `export_chrome_trace` writes."""
    return _in_order(
        Event(event["name"], float(event["ts"]), float(event["dur"]))
        for event in trace["traceEvents"]
        if event.get("ph") == "X"
        and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )


def _in_order(events: Iterable[Event]) -> list[Event]:
    kept = (e for e in events if not e.name.startswith(_HOST_COPIES))
    return sorted(kept, key=lambda event: event.start)


def split(events: Sequence[Event], pause: float) -> list[list[Event]]:
    """Events before and after every stretch of `pause` microseconds of nothing."""
    parts: list[list[Event]] = []
    end = 0.0
    for event in events:
        if not parts or event.start - end > pause:
            parts.append([])
            end = event.start
        parts[-1].append(event)
        end = max(end, event.start + event.duration)
    return parts


def per_call(events: Sequence[Event], calls: int) -> list[float]:
    """Microseconds of each of `calls` alike calls.

    Where their events are not alike, as those of a loop that ends when it is
    done, only the mean is known, and is all that is given.
    """
    each, rest = divmod(len(events), calls)
    parts = [events[i * each : (i + 1) * each] for i in range(calls)]
    names = {tuple(sorted(event.name for event in part)) for part in parts}
    if rest or len(names) > 1:
        return [sum(event.duration for event in events) / calls]
    return [sum(event.duration for event in part) for part in parts]


def by_name(events: Sequence[Event], calls: int) -> dict[str, float]:
    """Name -> microseconds per call, the longest first."""
    found: dict[str, float] = {}
    for event in events:
        found[event.name] = found.get(event.name, 0.0) + event.duration / calls
    return dict(sorted(found.items(), key=lambda item: -item[1]))
