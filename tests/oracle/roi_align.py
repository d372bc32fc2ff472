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


def _axis(low, high, scale, num_bins, extent, axis, *, sampling_ratio, aligned):
    ratio = sampling_ratio[axis] if np.ndim(sampling_ratio) else sampling_ratio
    offset, scale = F(0.5 if aligned else 0), F(scale)
    start = F(low) * scale - offset
    length = (F(high) * scale - offset) - start
    if not aligned and length < 1:
        length = F(1)
    if not abs(length) < 2**24:
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
            place = float(min(max(place, F(0)), F(extent - 1)))
            cell = math.floor(place)
            for near, weight in (
                (cell, 1 - (place - cell)),
                (min(cell + 1, extent - 1), place - cell),
            ):
                share = weight / float(grid)
                weights[near] = weights.get(near, 0) + share
        result.append(weights)
    return result


def roi_align(
    features, rois, size, scale, valid=None, *, sampling_ratio=0, aligned=True
):
    axes = partial(_axis, sampling_ratio=sampling_ratio, aligned=aligned)
    return bands.apply(axes, features, rois, size, scale, valid)


def gradient(
    cotangent,
    features,
    rois,
    size,
    scale,
    valid=None,
    *,
    sampling_ratio=0,
    aligned=True,
):
    axes = partial(_axis, sampling_ratio=sampling_ratio, aligned=aligned)
    return bands.spread(axes, cotangent, features, rois, size, scale, valid)
