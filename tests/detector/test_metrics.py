"""Average precision of the detector example, worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from examples.faster_rcnn import metrics
from examples.faster_rcnn.detect import Detections
from jax_roipool.data import Record, Roidb

# 10 x 10 pixels each, far apart.
A, B, C = [0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]
HALF_OF_A = [0, 0, 9, 4]  # IoU with A is 50 / 100


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def curve(found, truth, threshold=0.5):
    recall, precision, count = metrics.match(
        [(boxes(*b), np.array(s, float)) for b, s in found],
        [(boxes(*b), np.array(d, bool)) for b, d in truth],
        threshold,
    )
    return recall.tolist(), precision.tolist(), count


def test_right_wrong_right():
    recall, precision, count = curve(
        [([A, B, C], [0.9, 0.8, 0.7])], [([A, C], [False, False])]
    )
    assert (recall, count) == ([0.5, 0.5, 1.0], 2)
    assert precision == [1, 1 / 2, 2 / 3]
    area = metrics.average_precision(np.array(recall), np.array(precision), "area")
    assert area == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Recalls 0 to 0.5 have precision 1, those from 0.6 to 1 have 2 / 3.
    points = metrics.average_precision(
        np.array(recall), np.array(precision), "11-point"
    )
    assert points == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_eleven_points_at_tenths_that_binary_numbers_miss():
    recall = np.arange(1, 11) / 10
    for hits in range(1, 11):
        ap = metrics.average_precision(recall[:hits], np.ones(hits), "11-point")
        assert ap == pytest.approx((hits + 1) / 11)


def test_the_second_of_two_on_one_box_is_wrong():
    _, precision, _ = curve([([A, A], [0.6, 0.9])], [([A], [False])])
    assert precision == [1, 0.5]


def test_a_detection_belongs_to_the_box_it_overlaps_most_found_or_not():
    # The second overlaps A most, which is taken; that it also overlaps by half
    # what is left of the threshold does not help it.
    near = [0, 0, 9, 8]
    _, precision, _ = curve(
        [([A, near], [0.9, 0.8])], [([A, HALF_OF_A], [False, False])], 0.4
    )
    assert precision == [1, 0.5]


def test_difficult_boxes_neither_count_nor_cost():
    recall, precision, count = curve(
        [([B, B, A], [0.9, 0.8, 0.7])], [([A, B], [False, True])]
    )
    assert (recall, precision, count) == ([1.0], [1.0], 1)


def test_an_overlap_equal_to_the_threshold_is_enough():
    assert curve([([HALF_OF_A], [1])], [([A], [False])], 0.5)[1] == [1]
    assert curve([([HALF_OF_A], [1])], [([A], [False])], 0.51)[1] == [0]


def test_boxes_of_another_image_do_not_count():
    recall, precision, count = curve(
        [([A], [0.9]), ([A], [0.8])], [([], []), ([A], [False])]
    )
    assert (recall, precision, count) == ([0, 1], [0, 0.5], 1)


def test_nothing_found_and_nothing_to_find():
    recall, precision, count = curve([([], [])], [([A], [False])])
    assert (recall, precision, count) == ([], [], 1)
    for method in ("area", "11-point"):
        assert metrics.average_precision(np.zeros(0), np.zeros(0), method) == 0


def scene(difficult=(False, False, False)):
    records = [
        Record("1", "1.jpg", 60, 100, [A, B], [1, 2], difficult[:2]),
        Record("2", "2.jpg", 60, 100, [C], [1], difficult[2:]),
    ]
    return Roidb.from_records(records, ["cat", "dog", "cow"])


def found(*rows):
    return Detections(
        boxes(*(r[0] for r in rows)),
        np.array([r[1] for r in rows], np.int32),
        np.array([r[2] for r in rows], np.float32),
    )


def test_voc_by_class():
    ap = metrics.voc(scene(), {0: found((A, 1, 0.9), (A, 2, 0.8))})
    assert ap == {"cat": 0.5, "dog": 0.0}  # no cow is to be found


def test_coco_agrees_where_the_rules_do():
    perfect = {0: found((A, 1, 0.9), (B, 2, 0.8)), 1: found((C, 1, 0.7))}
    assert metrics.coco(scene(), perfect) == pytest.approx(
        {"AP": 1, "AP50": 1, "AP75": 1}
    )
    # IoU 0.6: right at 0.5, 0.55 and 0.6 of ten thresholds.
    coarse = {**perfect, 1: found(([40, 0, 49, 5], 1, 0.7))}
    values = metrics.coco(scene(), coarse)
    assert values["AP50"] == pytest.approx(1)
    assert metrics.voc(scene(), coarse) == {"cat": 1.0, "dog": 1.0}
    assert values["AP75"] == pytest.approx((0.5 + 1) / 2, abs=0.005)
    assert metrics.voc(scene(), coarse, 0.75) == {"cat": 0.5, "dog": 1.0}


def test_coco_without_detections():
    assert set(metrics.coco(scene(), {}).values()) == {0.0}


def test_coco_takes_the_data_set_s_own_file(tmp_path):
    import json

    from jax_roipool.data import read_coco

    file = tmp_path / "instances.json"
    annotation = {"id": 1, "image_id": 139, "category_id": 90, "iscrowd": 0}
    annotation |= {"bbox": [0, 0, 10, 10], "area": 50}
    content = {
        "info": {},
        "images": [
            {"id": k, "file_name": "a.jpg", "height": 60, "width": 100}
            for k in (139, 140)
        ],
        "categories": [{"id": 90, "name": "cat"}],
        "annotations": [annotation, {**annotation, "id": 2, "image_id": 140}],
    }
    file.write_text(json.dumps(content))
    roidb = read_coco(file, tmp_path, check_images=False)
    hits = {0: found((A, 1, 0.9))}
    assert metrics.coco(roidb[:1], hits, file)["AP"] == pytest.approx(1)
    assert metrics.coco(roidb, hits, file)["AP"] == pytest.approx(0.5, abs=0.01)
