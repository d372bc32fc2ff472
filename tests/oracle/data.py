"""What the data layer means, once more: slow loops over numbers, and no JAX.

Written from the published rules (R-CNN, Fast R-CNN, docs/data.md) and from
nothing in the package. float32 where the rule says so, number by number.
"""

import numpy as np

from tests.oracle import boxes as boxes_oracle

F = np.float32


def match(record, boxes):
    """For each box: the greatest overlap with what may be a sample, and which."""
    result = []
    for box in boxes:
        best = (F(0), -1)
        for i, truth in enumerate(record.boxes):
            if record.crowd[i] or record.difficult[i]:
                continue
            overlap = boxes_oracle.iou(box, truth, inclusive=True)
            if overlap > best[0]:
                best = (overlap, i)
        result.append(best)
    return result


def target_statistics(records, num_classes, threshold=0.5):
    """Means and stds of every class in two passes; 0 and 1 where there is none."""
    targets = [[] for _ in range(num_classes)]
    for record in records:
        boxes = [*record.boxes[record.trainable], *record.proposals]
        for box, (overlap, i) in zip(boxes, match(record, boxes), strict=True):
            if i >= 0 and overlap >= F(threshold):
                targets[record.classes[i]].append(
                    boxes_oracle.deltas(box, record.boxes[i], inclusive=True)
                )
    means, stds = np.zeros((num_classes, 4)), np.ones((num_classes, 4))
    for k, some in enumerate(targets):
        if some:
            means[k], stds[k] = np.mean(some, axis=0), np.std(some, axis=0)
    stds[stds == 0] = 1
    return means, stds, [len(t) for t in targets]


def random_records(count, seed, num_classes=5, proposals=30):
    """Fields of records: images of 40 to 200 pixels, many overlapping proposals."""
    r = np.random.default_rng(seed)
    result = []
    for i in range(count):
        height, width = map(int, r.integers(40, 200, 2))
        last = np.array([width, height] * 2) - 1
        n = int(r.integers(0, 6))
        low = r.uniform(0, 0.6, (n, 2)) * last[:2]
        truth = np.concatenate([low, low + r.uniform(0, 60, (n, 2))], axis=1)
        truth = np.clip(truth, 0, last)
        some = truth[r.integers(0, n, proposals)] if n else np.zeros((proposals, 4))
        moved = np.clip(some + r.normal(0, 6, (proposals, 4)), 0, last)
        moved = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        fields = {
            "id": f"{seed}-{i}",
            "image": f"images/{i}.jpg",
            "height": height,
            "width": width,
            "boxes": truth.astype(F),
            "classes": r.integers(1, num_classes, n).astype(np.int32),
            "difficult": r.random(n) < 0.2,
            "crowd": r.random(n) < 0.2,
        }
        if proposals:
            fields["proposals"] = moved.astype(F)
        result.append(fields)
    return result


def sample(
    record,
    rng,
    num_classes,
    *,
    count=64,
    low=0.1,
    high=0.5,
    fg=0.5,
    fraction=0.25,
    means=(0, 0, 0, 0),
    stds=(0.1, 0.1, 0.2, 0.2),
    crowd_threshold=0.7,
):
    """The RoIs of one image and their blobs, one after another."""
    truth = [b for b, ok in zip(record.boxes, record.trainable, strict=True) if ok]
    proposals = [] if record.proposals is None else list(record.proposals)
    own = [i for i, ok in enumerate(record.trainable) if ok]
    matched = [(F(1), i) for i in own] + match(record, proposals)
    foreground, background = [], []
    for i, (box, (overlap, _)) in enumerate(
        zip(truth + proposals, matched, strict=True)
    ):
        crowds = [b for b, c in zip(record.boxes, record.crowd, strict=True) if c]
        if i >= len(truth) and any(
            boxes_oracle.shared(box, c, True) / boxes_oracle.area(box, True)
            > F(crowd_threshold)
            for c in crowds
        ):
            continue
        if overlap >= F(fg):
            foreground.append(i)
        elif F(low) <= overlap < F(high):
            background.append(i)

    def draw(some, at_most):
        return [some[k] for k in rng.permutation(len(some))][:at_most]

    foreground = draw(foreground, round(fraction * count))
    background = draw(background, count - len(foreground))
    rois, labels = np.zeros((count, 4), F), np.zeros(count, np.int32)
    targets = np.zeros((count, 4 * num_classes))
    weights = np.zeros((count, 4 * num_classes))
    for row, i in enumerate(foreground + background):
        rois[row] = (truth + proposals)[i]
        if row < len(foreground):
            k = matched[i][1]
            label = labels[row] = record.classes[k]
            for j, delta in enumerate(
                boxes_oracle.deltas(rois[row], record.boxes[k], inclusive=True)
            ):
                targets[row, 4 * label + j] = (delta - means[j]) / stds[j]
                weights[row, 4 * label + j] = 1
    valid = np.arange(count) < len(foreground) + len(background)
    return rois, labels, targets, weights, weights, valid
