"""What a separable op means, given the weights of a RoI's bins along each axis.

Slow loops over numbers in float64, and no JAX. Channels last, the flat form.
"""

from itertools import product

import numpy as np

from tests.oracle.rois import image_of


def _weights(axes, rois, size, scale, shape, valid):
    """Every (RoI, row, column of bins), (image, row, column of cells), its weight."""
    for k, roi in enumerate(rois):
        image = image_of(roi, shape[0], valid is None or valid[k])
        if image is None:
            continue
        box = np.asarray(roi[1:]).astype(np.float32)
        rows = axes(box[1], box[3], scale[0], size[0], shape[1], 0)
        columns = axes(box[0], box[2], scale[1], size[1], shape[2], 1)
        for (p, row), (q, column) in product(enumerate(rows), enumerate(columns)):
            for (y, a), (x, b) in product(row.items(), column.items()):
                if a * b != 0:
                    yield (k, p, q), (image, y, x), a * b


def apply(axes, features, rois, size, scale, valid=None):
    """[N, H, W, C], [K, 5] -> [K, PH, PW, C] in float64."""
    pooled = np.zeros((len(rois), *size, features.shape[-1]))
    with np.errstate(all="ignore"):
        wide = np.asarray(features).astype(np.float64)
        weights = _weights(axes, rois, size, scale, features.shape, valid)
        for of_bin, of_cell, weight in weights:
            pooled[of_bin] += weight * wide[of_cell]
    return pooled


def spread(axes, cotangent, features, rois, size, scale, valid=None):
    """The transpose: the gradient of features in float64."""
    gradient = np.zeros(features.shape)
    with np.errstate(all="ignore"):
        wide = np.asarray(cotangent).astype(np.float64)
        weights = _weights(axes, rois, size, scale, features.shape, valid)
        for of_bin, of_cell, weight in weights:
            gradient[of_cell] += weight * wide[of_bin]
    return gradient
