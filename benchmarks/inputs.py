"""What a call is given, and the right answers to it.

The answers come from NumPy and from the bins of `tests/oracle/roi_pool.py`, which know
nothing of the package.
"""

import copy
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from workloads import Workload

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests import oracle


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
    def pooled_shape(self) -> tuple[int, int, int, int]:
        """[K, PH, PW, C]."""
        return len(self.rois), self.load.size, self.load.size, self.load.shape[-1]

    def cotangent(self) -> np.ndarray:
        """[K, PH, PW, C], small integers: any order of adding them is exact."""

        def make() -> np.ndarray:
            rng = np.random.default_rng(0)
            return rng.integers(-4, 5, self.pooled_shape, np.int8)

        return self.once("cotangent", make)

    def check(self, got: dict[str, np.ndarray], integer_bins: bool = False) -> str:
        """What is to be said of an answer; raises `WrongAnswer`.

        Args:
          got: "pooled", "argmax" and "gradient", whichever there are.
          integer_bins: The contestant divides bins in integers, not in float32:
            values that differ are counted and not held against it.
        """
        note = ""
        for name, array in got.items():
            wanted = getattr(self, f"_{name}")()
            if array.shape != wanted.shape or array.dtype != wanted.dtype:
                raise WrongAnswer(f"{name} is {array.dtype}{array.shape}")
            if differing := np.count_nonzero(array != wanted):
                note = f"{differing} of {array.size} values of {name} differ"
                if not integer_bins:
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
            columns = oracle.bins(x1, x2, scale, size, width)
            rows = oracle.bins(y1, y2, scale, size, height)
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
