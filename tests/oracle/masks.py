"""What pasting a mask and reading a point mean, once more: slow loops over numbers.

Written from the published rules and from nothing in the package.
"""

import numpy as np

F = np.float32


def hats(place, cells):
    """Which cells have a weight at a place, and how much: 1 there, 0 a cell away."""
    near = (c for c in range(cells) if abs(place - c) < 1)
    return [(c, 1 - abs(place - c)) for c in near]


def read(mask, row, column):
    """A map [H, W, ...] between its cells, which count 0 outside of it."""
    total = np.zeros(mask.shape[2:])
    for r, a in hats(row, mask.shape[0]):
        for c, b in hats(column, mask.shape[1]):
            total = total + a * b * mask[r, c]
    return total


def paste_by_detectron2(mask, box, height, width):
    pasted = np.zeros((height, width))
    x1, y1, x2, y2 = (float(x) for x in box)
    if not (np.isfinite(box).all() and x2 > x1 and y2 > y1):
        return pasted
    if not np.isfinite([F(x2) - F(x1), F(y2) - F(y1)]).all():
        return pasted
    for i in range(height):
        for j in range(width):
            row = (i + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
            column = (j + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
            pasted[i, j] = read(mask, row, column)
    return pasted


def grown(low, high, cells):
    """The first and the last pixel of a side, in float32 as torch has it."""
    half = F(F(F(high) - F(low)) * F(0.5)) * F((cells + 2) / cells)
    middle = F(F(high) + F(low)) * F(0.5)
    return np.trunc(F(middle - half)), np.trunc(F(middle + half))


def paste_by_torchvision(mask, box, height, width):
    pasted = np.zeros((height, width))
    if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
        return pasted
    ringed = np.pad(mask, 1)
    x1, x2 = grown(box[0], box[2], mask.shape[1])
    y1, y2 = grown(box[1], box[3], mask.shape[0])
    if not np.isfinite([x2 - x1, y2 - y1]).all():
        return pasted
    for i in range(height):
        for j in range(width):
            if not (x1 <= j <= x2 and y1 <= i <= y2):
                continue
            place = []
            for pixel, low, high, cells in (
                (i, y1, y2, ringed.shape[0]),
                (j, x1, x2, ringed.shape[1]),
            ):
                at = (pixel - low + 0.5) * cells / (high - low + 1) - 0.5
                place.append(min(max(at, 0), cells - 1))
            pasted[i, j] = read(ringed, *place)
    return pasted


PASTE = {"detectron2": paste_by_detectron2, "torchvision": paste_by_torchvision}


def paste_all(masks, boxes, size, rule="detectron2"):
    with np.errstate(all="ignore"):
        pairs = zip(np.asarray(masks, np.float64), boxes, strict=True)
        each = [PASTE[rule](*pair, *size) for pair in pairs]
    return np.array(each)


def sample(features, points):
    features = features.astype(np.float64)
    height, width, channels = features.shape
    result = np.zeros((len(points), channels))
    for p, (x, y) in enumerate(points.astype(np.float64)):
        if np.isfinite(x) and np.isfinite(y):
            result[p] = read(features, y * height - 0.5, x * width - 0.5)
    return result
