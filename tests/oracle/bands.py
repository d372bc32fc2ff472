"""What a separable op means, given the weights of a RoI's bins along each axis.

Slow loops over numbers in float64, and no JAX. Channels last, the flat form.
"""

import numpy as np

from tests.oracle.rois import image_of


def _weights(axes, rois, k, size, scale, shape, valid):
    """The image of a RoI, and {cell: weight} of each bin of rows and of columns."""
    image = image_of(rois[k], shape[0], valid is None or valid[k])
    if image is None:
        return None, [], []
    box = np.asarray(rois[k][1:]).astype(np.float32)
    rows = axes(box[1], box[3], scale[0], size[0], shape[1], 0)
    columns = axes(box[0], box[2], scale[1], size[1], shape[2], 1)
    return image, rows, columns


def apply(axes, features, rois, size, scale, valid=None):
    """[N, H, W, C], [K, 5] -> [K, PH, PW, C] in float64."""
    pooled = np.zeros((len(rois), *size, features.shape[-1]))
    with np.errstate(all="ignore"):
        wide = np.asarray(features).astype(np.float64)
        for k in range(len(rois)):
            image, rows, columns = _weights(
                axes, rois, k, size, scale, features.shape, valid
            )
            for p, row in enumerate(rows):
                for q, column in enumerate(columns):
                    for y, a in row.items():
                        for x, b in column.items():
                            if a * b != 0:
                                pooled[k, p, q] += a * b * wide[image, y, x]
    return pooled


def spread(axes, cotangent, features, rois, size, scale, valid=None):
    """The transpose: the gradient of features in float64."""
    gradient = np.zeros(features.shape)
    with np.errstate(all="ignore"):
        wide = np.asarray(cotangent).astype(np.float64)
        for k in range(len(rois)):
            image, rows, columns = _weights(
                axes, rois, k, size, scale, features.shape, valid
            )
            for p, row in enumerate(rows):
                for q, column in enumerate(columns):
                    for y, a in row.items():
                        for x, b in column.items():
                            if a * b != 0:
                                gradient[image, y, x] += a * b * wide[k, p, q]
    return gradient
