"""Pictures of time against the number of RoIs and against their area."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import ours
from lineup import Settings, line_up
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from measure import time_in_turns
from verify import Verifier
from workloads import DETECTORS, Workload


@dataclasses.dataclass(frozen=True)
class OfOneSize(Workload):
    """RoIs of so many rows and columns of cells each, anywhere on the map."""

    cells: tuple[int, int] = (1, 1)

    def make_rois(self, seed: int = 0) -> np.ndarray:
        """[K, 5]."""
        images, height, width, _ = self.shape
        rng = np.random.default_rng(seed)
        top = rng.integers(0, height - self.cells[0] + 1, self.rois)
        left = rng.integers(0, width - self.cells[1] + 1, self.rois)
        bottom, right = top + self.cells[0] - 1, left + self.cells[1] - 1
        index = rng.integers(0, images, self.rois)
        corners = np.stack([left, top, right, bottom], 1) / self.scale
        return np.hstack([index[:, None], corners]).astype(np.float32)


_VGG = DETECTORS["vgg16_test"]
_MAP = (1, 100, 168, 256)
_SIDES = [(side, side) for side in (1, 2, 4, 8, 16, 32, 64)] + [_MAP[1:3]]

# Name -> label of the x axis, what all points share, and the points.
SWEEPS: dict[str, tuple[str, str, dict[int, Workload]]] = {
    "rois": (
        "number of RoIs",
        "RoIs of 16 to 600 pixels on a 38x63x512 map, 7x7 bins",
        {n: dataclasses.replace(_VGG, rois=n) for n in 2 ** np.arange(4, 13)},
    ),
    "area": (
        "area of a RoI [cells]",
        "300 RoIs of one size on a 100x168x256 map, 7x7 bins",
        {
            cells[0] * cells[1]: OfOneSize(_MAP, 300, 7, 1 / 8, cells=cells)
            for cells in _SIDES
        },
    ),
}


def make(
    directory: pathlib.Path,
    settings: Settings,
    verifier: Verifier,
    seconds: float,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Measures the sweeps, `seconds` a point, draws them, gives the numbers."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.replace(
        settings, modes=(ours.FORWARD, ours.ARGMAX), limit_library=""
    )
    sweeps = {}
    for name, (label, what, points) in SWEEPS.items():
        medians: dict[str, list[float]] = {}
        for number, (x, load) in enumerate(points.items()):
            where = f"{name} {x} ({number + 1}/{len(points)})"
            verifier.first_calls(load, settings, where)
            contestants = line_up(load, settings).contestants
            time_in_turns(contestants, seconds, where, least=3)
            for contestant in contestants:
                medians.setdefault(contestant.name, []).append(contestant.median)
            del contestants
        sweeps[name] = {
            "title": what,
            "x_label": label,
            "x": [int(x) for x in points],
            "median_ms": medians,
        }
        path = directory / f"roi_pool_cpu_{name}.png"
        _draw(sweeps[name], about, path)
        print(f"\nwrote {os.fspath(path)}")
    return sweeps


# Colours that remain apart for the colour-blind (Okabe and Ito).
_STYLES = {
    "ours NHWC": "#0072b2",
    "ours NCHW": "#009e73",
    "onnxruntime": "#cc79a7",
    "openvino": "#d55e00",
    "torchvision": "#e69f00",
}


def _draw(sweep: dict[str, Any], about: dict[str, Any], path: pathlib.Path) -> None:
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, medians in sweep["median_ms"].items():
        colour = next((c for k, c in _STYLES.items() if name.startswith(k)), "black")
        is_ours = name.startswith("ours")
        axes.plot(
            sweep["x"],
            medians,
            color=colour,
            linestyle="--" if name.endswith(("argmax", "reused")) else "-",
            marker=("o" if is_ours else "s"),
            markersize=4,
            linewidth=2 if is_ours else 1.2,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xticks(sweep["x"])
    axes.minorticks_off()
    axes.set_xlabel(sweep["x_label"])
    axes.set_ylabel("median time of a call [ms]")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(
        f"RoI max pooling: {sweep['title']}\n{about['dtype']}, {about['processor']}, "
        f"threads: {about['threads']}, jax {about['jax']}, {about['date']}",
        fontsize=10,
    )
    figure.legend(
        loc="outside right upper", fontsize=9, frameon=False, handlelength=3.5
    )
    figure.savefig(path)
