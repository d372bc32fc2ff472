"""Boxes and indices of every class of float: defined results, alike everywhere."""

from functools import partial

import jax
import numpy as np
import pytest

from jax_roipool import valid_rois
from tests.cases import (
    LAYOUTS,
    assert_same,
    channels_last,
    few_values,
    in_layout,
    rng,
)
from tests.oracle.rois import image_of

IMAGES, HEIGHT, WIDTH, CHANNELS = 2, 9, 11, 3

# Each also with the other sign.
CLASSES = {
    "zero": 0x00000000,
    "least subnormal": 0x00000001,
    "subnormal": 0x00400000,
    "greatest subnormal": 0x007FFFFF,
    "least normal": 0x00800000,
    "next below a half": 0x3EFFFFFF,
    "half": 0x3F000000,
    "next above a half": 0x3F000001,
    "one": 0x3F800000,
    "one and a half": 0x3FC00000,
    "two and a half": 0x40200000,
    "7.5": 0x40F00000,
    "next below 7.5": 0x40EFFFFF,
    "last with a half": 0x4AFFFFFF,  # 8388607.5
    "2^24 - 1": 0x4B7FFFFF,
    "2^24": 0x4B800000,
    "2^24 + 2": 0x4B800001,
    "2^31": 0x4F000000,
    "next below 2^31": 0x4EFFFFFF,
    "2^32": 0x4F800000,
    "2^63": 0x5F000000,
    "2^64": 0x5F800000,
    "1e30": 0x7149F2CA,
    "greatest": 0x7F7FFFFF,
    "infinity": 0x7F800000,
    "signalling NaN": 0x7F800001,
    "signalling NaN, all but quiet": 0x7FBFFFFF,
    "NaN": 0x7FC00000,
    "NaN, all bits": 0x7FFFFFFF,
}


def hostile_rois():
    """[K, 5] float32, by their bits: no conversion may quiet a NaN."""
    r = rng(11)
    patterns = np.array([*CLASSES.values()], np.uint32)
    patterns = np.concatenate([patterns, patterns | 0x80000000])
    tame = np.float32([1, 1, 2, 7, 6]).view(np.uint32)
    rois = []
    for column in range(5):  # every class as the index and as every corner
        some = np.tile(tame, (len(patterns), 1))
        some[:, column] = patterns
        rois.append(some)
    mixed = r.choice(patterns, (100, 5))
    mixed[:, 0] = tame[0]
    raw = r.integers(0, 2**32, (100, 5), np.uint32)
    raw[:, 0] = tame[0]
    # Of raw bits all but few are far outside: exponents near one, too.
    near = raw.copy()
    near[:, 1:] = near[:, 1:] & 0x807FFFFF | r.integers(124, 132, (100, 4)) << 23
    return np.concatenate([*rois, mixed, raw, near.astype(np.uint32)]).view(np.float32)


ROIS = hostile_rois()


@partial(jax.jit, static_argnums=(0, 4, 5, 6))
def everything(op, features, rois, cotangent, size, scale, layout):
    def pool(features):
        return op(features, rois, size, scale, layout=layout)

    result, pull = jax.vjp(pool, features)
    filled = valid_rois(features, rois, layout=layout)
    results = op.results(features, rois, size, scale, layout=layout)
    return results, result, pull(cotangent)[0], filled


def test_there_are_enough():
    assert len(ROIS) > 500
    assert len(np.unique(ROIS.view(np.uint32), axis=0)) > 500
    index, boxes = ROIS[:, 0], ROIS[:, 1:]
    assert np.isnan(boxes).any(axis=0).all()
    inside = np.isfinite(boxes).all(axis=1) & (index >= 0) & (index < IMAGES)
    assert 200 < inside.sum() < len(ROIS) - 100


def check(op, scale, layouts):
    features = few_values(IMAGES, HEIGHT, WIDTH, CHANNELS)
    size = (2, 3)
    (result, *others), slack = op.wanted(features, ROIS, size, scale)
    cotangent = rng(1).integers(-2, 3, result.shape).astype(np.float32)
    gradient, gradient_slack = op.wanted_gradient(
        cotangent, features, ROIS, size, scale
    )
    filled = [image_of(roi, IMAGES) is not None for roi in ROIS]
    for layout in layouts:
        got, of_vjp, got_gradient, got_filled = everything(
            op,
            in_layout(features, layout),
            ROIS,
            in_layout(cotangent, layout),
            size,
            scale,
            layout,
        )
        for x in (got[0], of_vjp):
            op.assert_near(channels_last(x, layout), result, slack)
        for x, want in zip(got[1:], others, strict=True):
            assert_same(channels_last(x, layout), want)
        got_gradient = channels_last(got_gradient, layout)
        op.assert_near(got_gradient, gradient, gradient_slack)
        assert_same(got_filled, filled)


def test_every_class_of_float(implementation, op):
    check(op, (1.0, 0.5), LAYOUTS)


@pytest.mark.parametrize("scale", [1 / 16, 7.3, 1e-30, 1e30])
def test_other_scales(kernel_implementation, op, scale):
    check(op, (scale, scale), LAYOUTS)


@pytest.mark.nightly
@pytest.mark.parametrize("scale", [1 / 16, 7.3, 1e-30, 1e30])
def test_other_scales_of_all(implementation, op, scale):
    check(op, (scale, scale), LAYOUTS)


def test_in_the_forms_without_an_index(kernel_implementation, op):
    features = few_values(1, HEIGHT, WIDTH, CHANNELS)
    boxes = ROIS[:, 1:]
    rois = np.insert(boxes, 0, 0, axis=1)
    (result, *others), slack = op.wanted(features, rois, (2, 3))
    for got in (
        op.results(features[0], boxes, (2, 3)),
        [x[0] for x in op.results(features, boxes[None], (2, 3))],
    ):
        op.assert_near(got[0], result, slack)
        for x, want in zip(got[1:], others, strict=True):
            assert_same(x, want)
