"""Anchors: the boxes that the region proposal network starts from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def base_anchors(
    stride: int, scales: Sequence[float], ratios: Sequence[float]
) -> NDArray[np.float32]:
    """The anchors of the first cell, ratios outside, scales inside.

    py-faster-rcnn's rule: the cell's area is brought to each ratio of height to
    width in whole pixels, and that box enlarged by each scale about its middle.

    Returns:
      float32 [len(ratios) * len(scales), 4], corners inclusive.
    """
    middle = (stride - 1) / 2
    boxes = []
    for ratio in ratios:
        width = np.rint(np.sqrt(stride * stride / ratio))
        height = np.rint(width * ratio)
        for scale in scales:
            half = np.array([width * scale - 1, height * scale - 1]) / 2
            boxes.append([*(middle - half), *(middle + half)])
    return np.array(boxes, np.float32)


def anchors(
    rows: int, columns: int, stride: int, base: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Those of all cells: float32 [rows * columns * len(base), 4], cell by cell."""
    y, x = np.mgrid[:rows, :columns] * np.float32(stride)
    shift = np.stack([x, y, x, y], axis=-1)[:, :, None].astype(np.float32)
    return (shift + base).reshape(-1, 4)
