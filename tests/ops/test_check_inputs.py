"""`check_inputs` says what is odd about the values of a call, and nothing of others."""

import re

import jax
import numpy as np
import pytest

from jax_roipool import check_inputs

FEATURES = np.zeros((2, 8, 10, 1), np.float32)
GOOD = [0, 16, 16, 96, 80]


def said(*rois, features=FEATURES, scale=1 / 16, **kwargs):
    rois = np.array(rois, np.float32)
    return check_inputs(features, rois, 7, spatial_scale=scale, **kwargs)


def test_nothing_where_nothing_is_odd():
    assert said(GOOD, [1, 0, 0, 159, 127]) == []
    boxes = np.array([GOOD[1:]], np.float32)
    assert check_inputs(FEATURES[0], boxes, 7, 1 / 16) == []
    first = np.moveaxis(FEATURES, -1, 1)
    assert check_inputs(first, boxes[None].repeat(2, 0), 7, 1 / 16, layout="NCHW") == []


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        ([2, 16, 16, 96, 80], r"image index is none of 0 to 1 \(RoI 1 has 2\)"),
        ([-1, 16, 16, 96, 80], r"\(RoI 1 has -1\), and give zeros"),
        ([0, np.nan, 16, 96, 80], "empty because a number of the box is not finite"),
        ([0.5, 16, 16, 96, 80], "a fraction as image index, which is dropped"),
        ([0, 96, 16, 16, 80], "reversed, x2 < x1 or y2 < y1"),
        ([0, 400, 400, 500, 500], "wholly outside of the map of 8 x 10 cells"),
        ([0, 20, 20, 21, 21], "one cell of the map, which every bin then shows"),
    ],
)
def test_one_roi_that_is_odd(roi, words):
    (sentence,) = said(GOOD, roi)
    assert sentence.startswith("1 of 2 RoIs is ")
    assert re.search(words, sentence), sentence


def test_several_and_all_of_them():
    assert said(GOOD, GOOD, valid=np.array([True, False])) == [
        "1 of 2 RoIs is empty because `valid` is false, and give zeros."
    ]
    *_, last = said([7, 0, 0, 1, 1], [7, 0, 0, 1, 1])
    assert last == "All RoIs are empty: the result is zeros, and so is the gradient."
    assert check_inputs(FEATURES, np.zeros((0, 5), np.float32)) == [
        "There are no RoIs."
    ]


def test_scale_and_normalised_boxes():
    first, *_ = said(GOOD, scale=16.0)
    assert first.startswith("spatial_scale (16.0, 16.0) is above 1: ")
    assert any("look normalised" in x for x in said([0, 0.1, 0.1, 0.5, 0.5]))


def test_traced_values_are_refused():
    with pytest.raises(TypeError, match="looks at values, and rois are traced"):
        jax.jit(lambda r: check_inputs(FEATURES, r) or 0)(np.float32([GOOD]))
