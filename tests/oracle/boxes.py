"""What boxes mean, once more: slow loops over numbers, and no JAX.

Written from the published rules and from nothing in the package. float32 where the
rule says so, number by number.
"""

import math

import numpy as np

F = np.float32


def _quiet(function):
    def call(*args, **kwargs):
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return call


def side(low, high, inclusive):
    length = F(F(high) - F(low))
    return length + F(1) if inclusive else length


@_quiet
def area(box, inclusive):
    width, height = side(box[0], box[2], inclusive), side(box[1], box[3], inclusive)
    return width * height if width > 0 and height > 0 else F(0)


@_quiet
def is_box(box, inclusive):
    return bool(
        np.isfinite(box).all()
        and side(box[0], box[2], inclusive) >= 0
        and side(box[1], box[3], inclusive) >= 0
    )


def shared(a, b, inclusive):
    corners = [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]
    return area(corners, inclusive)


@_quiet
def iou(a, b, inclusive=False):
    if not is_box(a, inclusive) or not is_box(b, inclusive):
        return F(0)
    union = F(area(a, inclusive) + area(b, inclusive)) - shared(a, b, inclusive)
    if union == np.inf or np.isnan(union):  # in numbers of any size
        return F(exact_iou(a, b, inclusive))
    return shared(a, b, inclusive) / union if union > 0 else F(0)


def exact_iou(a, b, inclusive=False):
    """Of finite boxes, in Python's integers of 2**-149."""
    a, b = ([int(math.ldexp(float(x), 149)) for x in box] for box in (a, b))
    one = 2**149 if inclusive else 0

    def exact_area(box):
        width, height = box[2] - box[0] + one, box[3] - box[1] + one
        return width * height if width > 0 and height > 0 else 0

    common = exact_area(
        [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]
    )
    union = exact_area(a) + exact_area(b) - common
    return common / union if union else 0.0


def all_pairs(function, boxes, others, inclusive=False):
    result = np.zeros((len(boxes), len(others)), F)
    for i, a in enumerate(boxes):
        for j, b in enumerate(others):
            result[i, j] = function(a, b, inclusive)
    return result


def _hull(a, b):
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def _sides64(box, inclusive):
    x1, y1, x2, y2 = map(float, box)
    return x2 - x1 + inclusive, y2 - y1 + inclusive


def generalized_iou(a, b, inclusive=False):
    """In float64, as the others below: what float32 should be near."""
    if not is_box(a, inclusive) or not is_box(b, inclusive):
        return -1.0
    width, height = _sides64(_hull(a, b), inclusive)
    hull = width * height
    areas = [math.prod(_sides64(x, inclusive)) for x in (a, b)]
    w, h = _sides64(
        [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])], inclusive
    )
    union = sum(areas) - (w * h if w > 0 and h > 0 else 0)
    outside = (hull - union) / hull if hull > 0 else 0.0
    return exact_iou(a, b, inclusive) - outside


def distance_iou(a, b, inclusive=False):
    if not is_box(a, inclusive) or not is_box(b, inclusive):
        return -1.0
    a, b = [float(x) for x in a], [float(x) for x in b]
    dx, dy = ((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1))
    longest = max(_sides64(_hull(a, b), inclusive))
    if longest == 0:
        return exact_iou(a, b, inclusive)
    width, height = (x / longest for x in _sides64(_hull(a, b), inclusive))
    dx, dy = dx / longest, dy / longest
    return exact_iou(a, b, inclusive) - (dx**2 + dy**2) / (width**2 + height**2)


def complete_iou(a, b, inclusive=False):
    if not is_box(a, inclusive) or not is_box(b, inclusive):
        return -1.0
    angle = [math.atan2(*_sides64(x, inclusive)) for x in (a, b)]
    aspect = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
    rest = 1 - exact_iou(a, b, inclusive) + aspect
    weight = aspect / rest if rest > 0 else 0.0
    return distance_iou(a, b, inclusive) - weight * aspect


def may_be_chosen(boxes, scores, valid=None, least=None):
    return [
        i
        for i in range(len(boxes))
        if (valid is None or valid[i])
        and not np.isnan(scores[i])
        and np.isfinite(boxes[i]).all()
        and (least is None or scores[i] >= least)
    ]


def nms(
    boxes,
    scores,
    threshold,
    max_outputs,
    valid=None,
    classes=None,
    least=None,
    inclusive=False,
):
    """Greedy: the best that is left, until nothing is left."""
    left = may_be_chosen(boxes, scores, valid, least)
    left.sort(key=lambda i: -float(scores[i]))  # stable: the lower index first
    # One box against many at a time, or the test would take minutes.
    boxes = np.asarray(boxes, F)
    left = np.array(left, int)
    chosen = []
    while len(left) and len(chosen) < max_outputs:
        best, left = left[0], left[1:]
        chosen.append(best)
        overlap = iou_with_all(boxes[best], boxes[left], inclusive)
        stays = overlap.astype(np.float64) <= float(threshold)
        if classes is not None:
            stays |= classes[left] != classes[best]
        left = left[stays]
    return chosen


def soft_nms(boxes, scores, threshold, max_outputs, method, sigma, least, classes=None):
    """One box at a time, in float64: near enough for scores apart."""
    scores = [float(x) for x in scores]
    left = may_be_chosen(boxes, scores)
    chosen = []
    while left and len(chosen) < max_outputs:
        best = max(left, key=lambda i: (scores[i], -i))
        if scores[best] < least:
            break
        chosen.append((best, scores[best]))
        left.remove(best)
        for i in left:
            if classes is not None and classes[i] != classes[best]:
                continue
            overlap = float(iou(boxes[best], boxes[i]))
            if method == "gaussian":
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap
    return chosen


@_quiet
def _areas(boxes, inclusive):
    width, height = (
        boxes[:, i + 2] - boxes[:, i] + F(1 if inclusive else 0) for i in (0, 1)
    )
    return np.where((width > 0) & (height > 0), width * height, F(0))


@_quiet
def iou_with_all(box, boxes, inclusive=False):
    """As `iou`; a test holds the two together."""
    corners = np.concatenate(
        [np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], axis=1
    )
    mine, theirs = _areas(box[None], inclusive), _areas(boxes, inclusive)
    common = _areas(corners, inclusive)
    union = mine + theirs - common
    result = np.where(union > 0, common / np.where(union > 0, union, F(1)), F(0))
    result = np.where(_are_boxes(box[None], inclusive), result, F(0))
    result = np.where(_are_boxes(boxes, inclusive), result, F(0))
    for j in np.flatnonzero(~(union < np.inf)):
        result[j] = iou(box, boxes[j], inclusive)
    return result


def _are_boxes(boxes, inclusive):
    sides = boxes[:, 2:] - boxes[:, :2] + F(1 if inclusive else 0)
    return np.isfinite(boxes).all(axis=1) & (sides >= 0).all(axis=1)


def deltas(box, target, inclusive=False):
    """(dx, dy, dw, dh) in float64: what float32 should be near."""
    (w, h), (tw, th) = _sides64(box, inclusive), _sides64(target, inclusive)
    x1, y1, _, _ = map(float, box)
    u1, v1, _, _ = map(float, target)
    dx = (u1 + tw / 2 - x1 - w / 2) / w
    dy = (v1 + th / 2 - y1 - h / 2) / h
    return dx, dy, math.log(tw / w), math.log(th / h)
