"""Who takes part in a workload: ours, the peers, and the limit."""

import dataclasses

import limit
import ours
import peers
from inputs import Inputs, make_inputs
from measure import Contestant
from workloads import AlignWorkload, Workload


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says about contestants.

    Attributes:
      layouts: Of ours.
      modes: Of ours; of the peers and of the limit as far as they have them.
      dtype: Of the features, unless the workload has its own.
      threads: For everybody.
      limit_library: What `limit.build` made; without it there are no limits.
    """

    layouts: tuple[str, ...]
    modes: tuple[str, ...]
    dtype: str
    threads: int
    limit_library: str


@dataclasses.dataclass
class Lineup:
    """Those who are compared, and the limits that they are held against.

    Attributes:
      contestants: In the order of the table's rows; the first is ours.
      limits: (name of the limit, "fresh" or "reused") -> way of storing ->
        contestant.
      notes: Who is missing, and why.
    """

    contestants: list[Contestant] = dataclasses.field(default_factory=list)
    limits: dict[tuple[str, str], dict[str, Contestant]] = dataclasses.field(
        default_factory=dict
    )
    notes: list[str] = dataclasses.field(default_factory=list)

    def everybody(self) -> list[Contestant]:
        """Contestants and limits."""
        ways = [way for ways in self.limits.values() for way in ways.values()]
        return self.contestants + ways


def line_up(load: Workload, settings: Settings) -> Lineup:
    """Makes the inputs of a workload and everybody's calls."""
    lineup = Lineup()
    align = isinstance(load, AlignWorkload)
    modes = [x for x in settings.modes if not (align and x == ours.ARGMAX)]
    limited = settings.limit_library and not align
    for dtype in load.dtypes or (settings.dtype,):
        inputs = [make_inputs(load, dtype, seed) for seed in (1, 2)]
        bits = f"{8 * inputs[0].dtype.itemsize}-bit " if load.dtypes else ""
        prefix = f"{dtype} " if load.dtypes else ""
        lineup.contestants += [
            ours.contestant(
                f"ours {prefix}{layout} {mode}{says}",
                given,
                layout,
                mode,
                bits + mode,
                form,
            )
            for layout in settings.layouts
            for mode in modes
            for given, form, says in forms(load, inputs)
        ]
        if limited and (bits + "forward", "fresh") not in lineup.limits:
            limit.register(settings.limit_library)
            features = ours.features(inputs[0], settings.layouts[0])
            lineup.limits |= limit.contestants(bits, inputs[0], features, modes)
        if not load.dtypes and load.forms != "padded":
            others, absent = peers.present(inputs, settings.threads, modes)
            lineup.contestants += others
            lineup.notes += absent
    if limited:
        lineup.contestants.append(limit.empty_call())
    return lineup


def forms(load: Workload, inputs: list[Inputs]) -> list[tuple[list[Inputs], str, str]]:
    """Calls of ours to be compared: inputs, form, and what the row says."""
    if load.forms == "padded":
        half = [x.once("half", x.half_valid) for x in inputs]
        return [(inputs, "flat", ", all valid"), (half, "flat", ", half valid")]
    if load.forms == "batched":
        return [
            (inputs, "flat", ", [K, 5]"),
            (inputs, "batch", ", [N, R, 4]"),
            (inputs, "vmap", ", vmap"),
        ]
    return [(inputs, "flat", "")]
