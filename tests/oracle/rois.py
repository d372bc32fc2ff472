"""Which image a RoI names: the same for every op."""

import numpy as np


def image_of(roi, images, valid=True):
    """The index of the image a RoI names, or None if it is empty."""
    index = roi[0]
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN
        boxes = np.asarray(roi[1:]).astype(np.float32)
        finite = np.isfinite(boxes).all() and np.isfinite(index)
    if not valid or not finite:
        return None
    return int(index) if 0 <= index < images else None
