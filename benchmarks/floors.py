"""The bytes that a call must move, and the least time that takes on a GPU.

Forward: the features of images that a RoI names, read once, and the results,
written once. Backward: cotangent and argmax, read once, and the gradient, written
once. Boxes are small beside that and are not counted.
"""

from typing import Any

import numpy as np
from inputs import dtype_of
from workloads import Workload

# Bytes per second, read and written together, that a large copy reaches on a GPU
# of the Hopper generation with HBM3e, by whose numbers kernels were planned.
BANDWIDTH = 4.3e12

_ARGMAX_BYTES = 4


def must_move(
    load: Workload, mode: str, dtype: str, rois: np.ndarray, valid: np.ndarray
) -> int:
    """Bytes of "forward", "argmax" or "backward", read and written together.

    Args:
      load: What is called.
      mode: "argmax" is the forward pass that also writes where maxima lie.
      dtype: Of the features.
      rois: [K, 5].
      valid: [K]. Padding must be written, but neither it nor what it names read.
    """
    images, height, width, channels = load.shape
    size = dtype_of(dtype).itemsize
    image = height * width * channels * size
    results = load.rois * load.size**2 * channels
    if mode == "backward":
        read = results * np.count_nonzero(valid) // max(len(valid), 1)
        return int(read * (size + _ARGMAX_BYTES)) + images * image
    named = np.unique(rois[valid, 0]).size
    written = size + (_ARGMAX_BYTES if mode == "argmax" else 0)
    return int(named * image + results * written)


def predictions(load: Workload, dtype: str, bandwidth: float = BANDWIDTH) -> Any:
    """What `must_move` says of each mode, and its time, for the JSON."""
    rois, valid = load.make_rois(1), np.ones(load.rois, bool)
    found = {}
    for name in load.dtypes or (dtype,):
        for mode in ("forward", "argmax", "backward"):
            moved = must_move(load, mode, name, rois, valid)
            key = f"{name} {mode}" if load.dtypes else mode
            found[key] = {"bytes": moved, "floor_us": moved / bandwidth * 1e6}
    return found
