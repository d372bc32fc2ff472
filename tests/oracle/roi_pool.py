"""What RoI max pooling means, once more: slow NumPy loops, and no JAX.

Written from the contract (docs/design/bins.md) and from nothing in the package.
Channels last, the flat form, one RoI after another.
"""

import math

import numpy as np

from tests.oracle.rois import image_of

LIMIT = 2**24


def round_half_away(x: float) -> int:
    """C's `round`. `x` is a float32 and exact in Python's floats."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def cell(coordinate, scale) -> int:
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.float32(coordinate) * np.float32(scale)
    return round_half_away(float(min(max(scaled, -LIMIT), LIMIT)))


def bins(low, high, scale, num_bins, extent):
    first, last = cell(low, scale), cell(high, scale)
    length = max(last - first + 1, 1)
    size = np.float32(length) / np.float32(num_bins)
    result = []
    for p in range(num_bins):
        begin = first + math.floor(np.float32(p) * size)
        end = first + math.ceil(np.float32(p + 1) * size)
        result.append((min(max(begin, 0), extent), min(max(end, 0), extent)))
    return result


def roi_pool(features, rois, size, scale, valid=None):
    """[N, H, W, C], [K, 5] -> pooled and argmax, [K, PH, PW, C]."""
    images, height, width, channels = features.shape
    pooled = np.zeros((len(rois), *size, channels), features.dtype)
    argmax = np.full(pooled.shape, -1, np.int32)
    for k, roi in enumerate(rois):
        image = image_of(roi, images, valid is None or valid[k])
        if image is None:
            continue
        rows = bins(roi[2], roi[4], scale[0], size[0], height)
        columns = bins(roi[1], roi[3], scale[1], size[1], width)
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if bottom <= top or right <= left:
                    continue
                window = features[image, top:bottom, left:right]
                window = window.reshape((bottom - top) * (right - left), channels)
                if channels == 0:
                    continue
                # NumPy's argmax: the first of equals, NaN before all numbers.
                with np.errstate(invalid="ignore"):  # a signalling NaN
                    best = window.astype(np.float64).argmax(axis=0)
                pooled[k, i, j] = window[best, np.arange(channels)]
                row, column = np.divmod(best, right - left)
                argmax[k, i, j] = (top + row) * width + left + column
    return pooled, argmax


def scatter(cotangent, rois, argmax, shape, valid=None):
    """The gradient, summed in float64: exact for integers."""
    images, _, width, _ = shape
    gradient = np.zeros(shape, np.float64)
    for k, roi in enumerate(rois):
        image = image_of(roi, images, valid is None or valid[k])
        if image is None:
            continue
        for (i, j, c), a in np.ndenumerate(argmax[k]):
            if a >= 0:
                gradient[image, a // width, a % width, c] += float(
                    cotangent[k, i, j, c]
                )
    return gradient


def gradient(cotangent, features, rois, size, scale, valid=None):
    """`scatter` at the argmax of these features."""
    _, argmax = roi_pool(features, rois, size, scale, valid)
    return scatter(cotangent, rois, argmax, features.shape, valid)


def gather(tangent, rois, argmax, valid=None):
    """The derivative along a tangent: what the tangent is at the argmax."""
    images, _, width, _ = tangent.shape
    derivative = np.zeros(argmax.shape, np.float64)
    for k, roi in enumerate(rois):
        image = image_of(roi, images, valid is None or valid[k])
        if image is None:
            continue
        for (i, j, c), a in np.ndenumerate(argmax[k]):
            if a >= 0:
                derivative[k, i, j, c] = tangent[image, a // width, a % width, c]
    return derivative
