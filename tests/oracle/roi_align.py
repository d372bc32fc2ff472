"""What RoIAlign means: float32 geometry, number by number, and weights in float64."""

import math
from functools import partial

import numpy as np

from tests.oracle import bands

F = np.float32


def _samples(start, size, grid, extent):
    """The numbers of the samples of a bin that may be inside of the map."""
    if grid <= 4096:
        return range(int(grid))
    step = float(size) / float(grid)
    first = math.floor((-1 - float(start)) / step) - 3
    last = math.ceil((extent - float(start)) / step) + 3
    return range(max(first, 0), min(last, int(grid)))


def _axis(
    low,
    high,
    scale,
    num_bins,
    extent,
    axis,
    *,
    sampling_ratio=0,
    aligned=True,
    along=None,
):
    """{cell: weight} of each bin; or their derivatives along the low or high corner."""
    ratio = sampling_ratio[axis] if np.ndim(sampling_ratio) else sampling_ratio
    offset, scale = F(0.5 if aligned else 0), F(scale)
    start = F(low) * scale - offset
    end = F(high) * scale - offset
    length = end - start
    one_cell = not aligned and length < 1
    if one_cell:
        length = F(1)
    if not (np.isfinite(start) and np.isfinite(end) and abs(length) < 2**24):
        return [{} for _ in range(num_bins)]
    size = length / F(num_bins)
    grid = F(ratio) if ratio else max(np.ceil(size), F(0))
    result = []
    for p in range(num_bins):
        weights = {}
        begin = start + F(p) * size
        for i in _samples(begin, size, grid, extent):
            place = begin + ((F(i) + F(0.5)) * size) / grid
            if not -1 <= place <= extent or extent == 0:
                continue
            moves = 0 <= place < extent - 1
            place = float(min(max(place, F(0)), F(extent - 1)))
            cell = math.floor(place)
            far = min(cell + 1, extent - 1)
            shares = [(cell, 1 - (place - cell)), (far, place - cell)]
            if along is not None:
                t = (p + (float(i) + 0.5) / float(grid)) / num_bins
                slope = {"low": 1 - t, "high": t}[along]
                if one_cell:
                    slope = {"low": 1, "high": 0}[along]
                slope *= float(scale)
                shares = [(cell, -slope), (far, slope)] if moves else []
            for near, weight in shares:
                weights[near] = weights.get(near, 0) + weight / float(grid)
        result.append(weights)
    return result


def roi_align(features, rois, size, scale, valid=None, **static):
    return bands.apply(partial(_axis, **static), features, rois, size, scale, valid)


def gradient(cotangent, features, rois, size, scale, valid=None, **static):
    axes = partial(_axis, **static)
    return bands.spread(axes, cotangent, features, rois, size, scale, valid)


def box_gradient(cotangent, features, rois, size, scale, valid=None, **static):
    """[K, 4] in float64: of the sum of `cotangent * roi_align(...)`."""
    gradient = np.zeros((len(rois), 4))
    for coordinate, (moved, along) in enumerate(
        [(1, "low"), (0, "low"), (1, "high"), (0, "high")]
    ):

        def axes(*args, moved=moved, along=along):
            return _axis(*args, **static, along=along if args[-1] == moved else None)

        derivative = bands.apply(axes, features, rois, size, scale, valid)
        with np.errstate(all="ignore"):
            parts = derivative * np.asarray(cotangent).astype(np.float64)
        gradient[:, coordinate] = parts.sum(axis=(1, 2, 3))
    return gradient
