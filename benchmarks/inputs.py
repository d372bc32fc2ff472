"""What a call is given, and the right answers to it.

The answers come from NumPy and from the bins and samples of `tests/oracle`, which know
nothing of the package.
"""

import copy
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from workloads import AlignWorkload, Workload

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests.oracle import roi_align, roi_pool


def dtype_of(name: str) -> np.dtype:
    """The dtype of that name; NumPy itself has no bfloat16."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)


class WrongAnswer(Exception):
    """A contestant's result is not the right one."""


class Inputs:
    """Features [N, H, W, C], RoIs [K, 5], and which of them are not padding."""

    def __init__(self, load: Workload, dtype: str, seed: int):
        rng = np.random.default_rng(seed)
        self.load = load
        self.dtype = dtype_of(dtype)
        features = rng.standard_normal(load.shape, np.float32)
        self.features = features.astype(self.dtype, copy=False)
        self.rois = load.make_rois(seed)
        self.valid = np.ones(load.rois, bool)
        self._kept: dict[Any, Any] = {}

    def half_valid(self) -> "Inputs":
        """The same call, the second half of its RoIs padding."""
        other = copy.copy(self)
        other.valid = np.arange(self.load.rois) < self.load.rois // 2
        other._kept = {}
        return other

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` made when first asked for; contestants share arrays."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def maps(self) -> list[np.ndarray]:
        """[N, H, W, C] of each level."""
        return [self.features]

    @property
    def pooled_shape(self) -> tuple[int, int, int, int]:
        """[K, PH, PW, C]."""
        return len(self.rois), self.load.size, self.load.size, self.load.shape[-1]

    def cotangent(self) -> np.ndarray:
        """[K, PH, PW, C], small integers: any order of adding them is exact."""

        def make() -> np.ndarray:
            rng = np.random.default_rng(0)
            return rng.integers(-4, 5, self.pooled_shape, np.int8)

        return self.once("cotangent", make)

    def check(self, got: dict[str, np.ndarray], own_rounding: bool = False) -> str:
        """What is to be said of an answer; raises `WrongAnswer`.

        Args:
          got: "pooled", "argmax" and "gradient", whichever there are.
          own_rounding: The contestant divides bins in integers, not in float32:
            values that differ are counted and not held against it.
        """
        note = ""
        for name, array in got.items():
            wanted = getattr(self, f"_{name}")()
            if array.shape != wanted.shape or array.dtype != wanted.dtype:
                raise WrongAnswer(f"{name} is {array.dtype}{array.shape}")
            if differing := np.count_nonzero(array != wanted):
                note = f"{differing} of {array.size} values of {name} differ"
                if not own_rounding:
                    raise WrongAnswer(note)
        return note

    # --- The right answers ---------------------------------------------------

    def _windows(self) -> Any:
        """Every bin with cells: where its result goes, window, top, left."""
        _, height, width, _ = self.load.shape
        scale, size = self.load.scale, self.load.size
        # Comparing float16 and bfloat16 themselves is slow in NumPy.
        features = self.features.astype(np.float32, copy=False)
        for k in np.flatnonzero(self.valid):
            index, x1, y1, x2, y2 = self.rois[k]
            columns = roi_pool.bins(x1, x2, scale, size, width)
            rows = roi_pool.bins(y1, y2, scale, size, height)
            for i, (top, bottom) in enumerate(rows):
                strip = features[int(index), top:bottom]
                for j, (left, right) in enumerate(columns):
                    if bottom > top and right > left:
                        yield (k, i, j), strip[:, left:right], top, left

    def _pooled(self) -> np.ndarray:
        def make() -> np.ndarray:
            pooled = np.zeros(self.pooled_shape, self.dtype)
            for place, window, _, _ in self._windows():
                pooled[place] = window.max(axis=(0, 1))
            return pooled

        return self.once("pooled", make)

    def _argmax(self) -> np.ndarray:
        def make() -> np.ndarray:
            argmax = np.full(self.pooled_shape, -1, np.int32)
            for place, window, top, left in self._windows():
                height, width, channels = window.shape
                best = window.reshape(height * width, channels).argmax(axis=0)
                row, column = np.divmod(best, width)
                argmax[place] = (top + row) * self.load.shape[2] + left + column
            return argmax

        return self.once("argmax", make)

    def _gradient(self) -> np.ndarray:
        def make() -> np.ndarray:
            gradient = np.zeros(self.load.shape, np.float64)
            flat = gradient.reshape(len(gradient), -1)
            channel = np.arange(self.load.shape[-1])
            argmax, cotangent = self._argmax(), self.cotangent()
            for k, roi in enumerate(self.rois):
                found = argmax[k] >= 0
                cells = (argmax[k] * len(channel) + channel)[found]
                np.add.at(flat[int(roi[0])], cells, cotangent[k][found].astype(float))
            return gradient.astype(self.dtype)

        return self.once("gradient", make)


class AlignInputs(Inputs):
    """The same for RoIAlign; `features` are a list where there are several levels.

    Answers are a value and its scale: what they would be if nothing cancelled.
    """

    load: AlignWorkload

    def __init__(self, load: AlignWorkload, dtype: str, seed: int):
        super().__init__(load, dtype, seed)
        rng = np.random.default_rng(seed)
        rest = [rng.standard_normal(x, np.float32) for x in load.shapes[1:]]
        if rest:
            self.features = [self.features, *(x.astype(self.dtype) for x in rest)]
        # As torchvision maps areas to levels, to the last bit.
        sides = self.rois[:, 3:] - self.rois[:, 1:3]
        borders = [12543.98046875, 50175.9296875, 200703.671875][: load.levels - 1]
        self.level = np.searchsorted(borders, sides.prod(axis=1), side="right")

    @property
    def maps(self) -> list[np.ndarray]:
        """[N, H, W, C] of each level."""
        return self.features if isinstance(self.features, list) else [self.features]

    def check(self, got: dict[str, Any], own_rounding: bool = False) -> str:
        """What is to be said of an answer; raises `WrongAnswer`.

        Args:
          got: "pooled" and "gradient", whichever there are; gradients of all levels.
          own_rounding: The contestant rounds the places of samples in its own way:
            a few units in the last place of the coordinate of a cell.
        """
        worst = 0.0
        for name, arrays in got.items():
            arrays = arrays if isinstance(arrays, list) else [arrays]
            for array, (wanted, scale) in zip(
                arrays, getattr(self, f"_{name}")(), strict=True
            ):
                if array.shape != wanted.shape or array.dtype != self.dtype:
                    raise WrongAnswer(f"{name} is {array.dtype}{array.shape}")
                error = np.abs(array - wanted) / np.maximum(scale, 1e-30)
                worst = max(worst, float(error.max()))  # NaN is the maximum
        note = f"within {worst:.0e} of the sum of |weight * feature|"
        if not worst <= (1e-3 if own_rounding else 1e-5):
            raise WrongAnswer(note)
        return note

    def _windows(self) -> Any:
        """Every RoI with cells: number, level, cells, weights of rows, of columns."""
        size = self.load.size
        for k, roi in enumerate(self.rois):
            level = int(self.level[k])
            _, *extents, _ = self.load.shapes[level]
            bands, cells = [], []
            for axis in (0, 1):
                weights = roi_align._axis(
                    roi[2 - axis],
                    roi[4 - axis],
                    self.load.scales[level],
                    size,
                    extents[axis],
                    axis,
                    sampling_ratio=self.load.ratio,
                    aligned=False,
                )
                band = np.zeros((size, extents[axis]))
                for p, bin_ in enumerate(weights):
                    for cell, weight in bin_.items():
                        band[p, cell] = weight
                used = np.flatnonzero(band.any(axis=0))
                window = slice(used[0], used[-1] + 1) if len(used) else slice(0)
                bands.append(band[:, window])
                cells.append(window)
            yield k, level, (int(roi[0]), *cells), *bands

    def _pooled(self) -> list[tuple[np.ndarray, np.ndarray]]:
        def make() -> list[tuple[np.ndarray, np.ndarray]]:
            both = np.zeros((2, *self.pooled_shape), np.float32)
            for k, level, cells, rows, columns in self._windows():
                window = self.maps[level][cells].astype(np.float64)
                for out, x in zip(both, (window, np.abs(window)), strict=True):
                    out[k] = columns @ np.tensordot(rows, x, 1)
            return [(both[0], both[1])]

        return self.once("pooled", make)

    def _gradient(self) -> list[tuple[np.ndarray, np.ndarray]]:
        def make() -> list[tuple[np.ndarray, np.ndarray]]:
            sums = [np.zeros((2, *shape)) for shape in self.load.shapes]
            cotangent = self.cotangent()
            for k, level, cells, rows, columns in self._windows():
                given = cotangent[k].astype(np.float64)
                for out, x in zip(sums[level], (given, np.abs(given)), strict=True):
                    out[cells] += np.tensordot(rows.T, columns.T @ x, 1)
            return [(x[0], x[1]) for x in sums]

        return self.once("gradient", make)


def make_inputs(load: Workload, dtype: str, seed: int) -> Inputs:
    """Those of a workload."""
    made = AlignInputs if isinstance(load, AlignWorkload) else Inputs
    return made(load, dtype, seed)
