"""What is printed of a workload, and what goes into the JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lineup import Lineup
from measure import Contestant
from verify import FirstCall

EXPLANATION = """\
cpu ms: median of the time of all threads
to ours: the median over that of the table's first row
to fresh, to reused: the median over the limit, in fresh and in reused memory
peak MB: resident memory (10^6 bytes) that the first call added at its peak"""


Table = dict[str, dict[str, Any]]


def rows(lineup: Lineup, first_calls: dict[str, FirstCall]) -> Table:
    """Contestant -> its numbers; of a limit the fastest way of storing only."""
    limits = {
        key: min(ways.values(), key=lambda c: c.median)
        for key, ways in lineup.limits.items()
    }
    first = lineup.contestants[0].median

    def row(contestant: Contestant, limit: str) -> dict[str, Any]:
        numbers: dict[str, Any] = {
            "median_ms": contestant.median,
            "min_ms": min(contestant.times),
            "cpu_ms": float(np.median(contestant.cpu_times)),
            "to_ours": contestant.median / first,
            "peak_bytes": first_calls[contestant.name].peak_bytes,
        }
        for memory in ("fresh", "reused"):
            if (limit, memory) in limits:
                best = limits[limit, memory].median
                numbers[f"to_{memory}"] = contestant.median / best
        if note := first_calls[contestant.name].note:
            numbers["note"] = note
        return numbers

    table = {c.name: row(c, c.limit) for c in lineup.contestants}
    for (mode, memory), best in limits.items():
        name, way = best.name.rsplit(", ", 1)
        table[name] = row(best, "") | {
            "note": way,
            "ways_ms": {
                way: c.median for way, c in lineup.limits[mode, memory].items()
            },
        }
    return table


def show(title: str, table: Table, notes: Sequence[str]) -> None:
    """Prints a table."""
    heads = (
        "median ms",
        "min ms",
        "cpu ms",
        "to ours",
        "to fresh",
        "to reused",
        "peak MB",
    )
    width = max(map(len, table)) + 2
    print(f"\n{title}")
    print(" " * (width + 2) + "".join(f"{head:>10}" for head in heads))
    for name, numbers in table.items():
        peak = numbers["peak_bytes"]
        cells = [
            f"{numbers['median_ms']:.3f}",
            f"{numbers['min_ms']:.3f}",
            f"{numbers['cpu_ms']:.3f}",
            *(
                f"{numbers[key]:.2f}x" if key in numbers else ""
                for key in ("to_ours", "to_fresh", "to_reused")
            ),
            "" if peak is None else f"{peak / 1e6:.1f}",
        ]
        text = "".join(f"{cell:>10}" for cell in cells)
        print(f"  {name:{width}}{text}  {numbers.get('note', '')}".rstrip())
    for note in notes:
        print(f"  {note}")
