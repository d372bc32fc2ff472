"""What pasting a mask and reading a point mean, once more: slow loops over numbers.

Written from the published rules and from nothing in the package.
"""

import numpy as np

F = np.float32


def hats(place, cells):
    """Which cells have a weight at a place, and how much: 1 there, 0 a cell away."""
    near = (c for c in range(cells) if abs(place - c) < 1)
    return [(c, 1 - abs(place - c)) for c in near]


def read(map_, rows, columns):
    """A map [H, W, ...] between its cells, which count 0 outside of it."""
    total = np.zeros(map_.shape[2:])
    for r, a in rows:
        for c, b in columns:
            total = total + a * b * map_[r, c]
    return total


def side_by_detectron2(low, high, extent, cells):
    """The cells and weights of every pixel along a side."""
    length = float(high) - float(low)
    if not (np.isfinite([low, high, F(high) - F(low)]).all() and length > 0):
        return [[]] * extent
    return [
        hats((i + 0.5 - float(low)) / length * cells - 0.5, cells)
        for i in range(extent)
    ]


def side_by_torchvision(low, high, extent, cells):
    """Likewise: the side grows by a ring of zeros; in float32, as torch has it."""
    half = F(F(F(high) - F(low)) * F(0.5)) * F((cells + 2) / cells)
    middle = F(F(high) + F(low)) * F(0.5)
    first, last = np.trunc(F(middle - half)), np.trunc(F(middle + half))
    if not (np.isfinite([low, high, last - first]).all() and high >= low):
        return [[]] * extent
    side = []
    for i in range(extent):
        at = (i - first + 0.5) * (cells + 2) / (last - first + 1) - 0.5
        ringed = hats(min(max(at, 0), cells + 1), cells + 2)
        inside = first <= i <= last
        side.append([(c - 1, w) for c, w in ringed if inside and 1 <= c <= cells])
    return side


SIDES = {"detectron2": side_by_detectron2, "torchvision": side_by_torchvision}


def paste(mask, box, size, rule):
    rows = SIDES[rule](box[1], box[3], size[0], mask.shape[0])
    columns = SIDES[rule](box[0], box[2], size[1], mask.shape[1])
    return [[read(mask, row, column) for column in columns] for row in rows]


def paste_all(masks, boxes, size, rule="detectron2"):
    with np.errstate(all="ignore"):
        pairs = zip(np.asarray(masks, np.float64), boxes, strict=True)
        return np.array([paste(*pair, size, rule) for pair in pairs])


def sample(features, points):
    features = features.astype(np.float64)
    height, width, channels = features.shape
    result = np.zeros((len(points), channels))
    for p, (x, y) in enumerate(points.astype(np.float64)):
        if np.isfinite(x) and np.isfinite(y):
            rows, columns = hats(y * height - 0.5, height), hats(x * width - 0.5, width)
            result[p] = read(features, rows, columns)
    return result
