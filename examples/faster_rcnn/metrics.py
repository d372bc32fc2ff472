"""Average precision: Pascal VOC's two, ours, and COCO's by pycocotools."""

import contextlib
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from examples.faster_rcnn.detect import Detections
from jax_roipool.boxes import iou
from jax_roipool.data import Roidb

Array = NDArray[Any]
Method = Literal["11-point", "area"]


# --- Pascal VOC --------------------------------------------------------------


def average_precision(recall: Array, precision: Array, method: Method) -> float:
    """The area below the curve, or the mean of 11 points of it.

    Args:
      recall: [n], rising.
      precision: [n], at each of these.
      method: "11-point", of VOC 2007: the mean over recalls 0, 0.1 ... 1 of the
        greatest precision at that recall or a greater; "area", of VOC 2010 and
        later: the area below precision made monotone.
    """
    if method == "11-point":
        at = [
            # Recall comes as a ratio of counts: 3 / 10 is not less than 0.3.
            precision[recall >= tenth / 10 - 1e-9].max(initial=0)
            for tenth in range(11)
        ]
        return float(np.mean(at))
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def match(
    found: Sequence[tuple[Array, Array]],
    truth: Sequence[tuple[Array, Array]],
    threshold: float,
) -> tuple[Array, Array, int]:
    """Which detections of one class are right, by the rules of VOC's devkit.

    In order of falling score each detection is compared with the ground truth
    that it overlaps most. At an IoU of at least `threshold` it is right, or wrong
    where that was found already, or does not count where that is difficult.

    Args:
      found: Of each image boxes [d, 4] and scores [d].
      truth: Of each image boxes [g, 4] and whether difficult, bool [g].
      threshold: Least IoU.

    Returns:
      Recall and precision after each detection that counts, float64 [n]; the
      number of boxes to be found.
    """
    count = sum(int((~difficult).sum()) for _, difficult in truth)
    image = np.repeat(np.arange(len(found)), [len(scores) for _, scores in found])
    scores = np.concatenate([np.zeros(0), *(scores for _, scores in found)])
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in found)])
    taken = [np.zeros(len(difficult), bool) for _, difficult in truth]
    right = []
    for i in np.argsort(-scores, kind="stable"):
        own, difficult = truth[image[i]]
        overlap = iou(boxes[[i]], own, inclusive=True)[0] if len(own) else np.zeros(0)
        best = int(overlap.argmax()) if len(own) else -1
        if best < 0 or overlap[best] < np.float32(threshold):
            right.append(False)
        elif not difficult[best]:
            right.append(not taken[image[i]][best])
            taken[image[i]][best] = True
    hits = np.cumsum(np.array(right, bool))
    recall = hits / max(count, 1)
    return recall, hits / np.arange(1, len(hits) + 1), count


def voc(
    roidb: Roidb,
    found: Mapping[int, Detections],
    threshold: float = 0.5,
    method: Method = "area",
) -> dict[str, float]:
    """Average precision of every class that has a box to be found, by its name.

    Crowd boxes are treated as difficult ones.

    Args:
      roidb: The ground truth.
      found: Detections by the index of the image; none where it is missing.
      threshold: Least IoU.
      method: As in `average_precision`.
    """
    records = list(roidb)
    result = {}
    for k, name in enumerate(roidb.classes):
        if k == 0:
            continue
        truth = [
            (r.boxes[r.classes == k], (r.difficult | r.crowd)[r.classes == k])
            for r in records
        ]
        own = [
            (d.boxes[d.classes == k], d.scores[d.classes == k])
            if (d := found.get(i)) is not None
            else (np.zeros((0, 4)), np.zeros(0))
            for i in range(len(records))
        ]
        recall, precision, count = match(own, truth, threshold)
        if count:
            result[name] = average_precision(recall, precision, method)
    return result


# --- COCO --------------------------------------------------------------------


def coco_ground_truth(roidb: Roidb) -> COCO:
    """A roidb as pycocotools has it; images are numbered by their index from 1.

    Areas are those of the boxes; difficult boxes count as crowds.
    """
    annotations = []
    for i, record in enumerate(roidb):
        for box, k, difficult, crowd in zip(
            record.boxes, record.classes, record.difficult, record.crowd, strict=True
        ):
            x, y, width, height = _corner_and_size(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(k),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(difficult or crowd),
                }
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i + 1} for i in range(len(roidb))],
        "categories": [
            {"id": k, "name": name} for k, name in enumerate(roidb.classes) if k
        ],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def coco(
    roidb: Roidb,
    found: Mapping[int, Detections],
    annotation_file: pathlib.Path | None = None,
) -> dict[str, float]:
    """COCO's AP (mean over IoU 0.5 ... 0.95), AP50 and AP75.

    Args:
      roidb: The ground truth.
      found: Detections by the index of the image.
      annotation_file: The file that the roidb was read from, where it was COCO's:
        its own areas and crowds then count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if annotation_file is None:
            truth = coco_ground_truth(roidb)
        else:
            truth = COCO(str(annotation_file))
        own = annotation_file is None
        numbers = [i + 1 if own else int(r.id) for i, r in enumerate(roidb)]
        results = []
        for i, detections in found.items():
            for box, k, score in zip(*detections, strict=True):
                category = k if own else roidb.category_ids[k]
                results.append(
                    {
                        "image_id": numbers[i],
                        "category_id": int(category),
                        "bbox": list(_corner_and_size(box)),
                        "score": float(score),
                    }
                )
        if not results:  # which pycocotools cannot read
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = numbers  # the file may have more
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75")
    return {n: float(v) for n, v in zip(names, evaluation.stats, strict=False)}


def _corner_and_size(box: Array) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2 - x1 + 1, y2 - y1 + 1
