"""RoIs with large bins share tables of block maxima (csrc/ops/max/cpu_tables.h)."""

import numpy as np
import pytest

from jax_roipool import roi_pool, roi_pool_with_argmax
from tests import probes
from tests.cases import (
    DTYPES,
    INF,
    LAYOUTS,
    NAN,
    assert_same,
    channels_last,
    dtype_of,
    few_values,
    in_layout,
    rng,
)
from tests.conftest import wide
from tests.oracle import roi_pool as oracle

HEIGHT, WIDTH, CHANNELS = 48, 70, 21


def large_rois(count, seed=0):
    """Over most of the map, some beyond its edges."""
    r = rng(seed)
    low = r.uniform(-0.2, 0.3, (count, 2)) * [WIDTH, HEIGHT]
    high = r.uniform(0.6, 1.2, (count, 2)) * [WIDTH, HEIGHT]
    return np.hstack([np.zeros((count, 1)), low, high]).astype(np.float32)


def tables(layout, rois, size, argmax, shape=(HEIGHT, WIDTH, CHANNELS)):
    boxes = [tuple(map(float, roi[1:])) for roi in rois]
    return probes.shared_tables(layout, shape, boxes, size, argmax)


def check(features, rois, size, layout):
    pooled, argmax = oracle.roi_pool(features, rois, size, (1, 1))
    laid_out = in_layout(features, layout)
    with wide(str(features.dtype)):
        plain = roi_pool(laid_out, rois, size, layout=layout)
        got = roi_pool_with_argmax(laid_out, rois, size, layout=layout)
    assert_same(channels_last(plain, layout), pooled)
    assert_same(channels_last(got[0], layout), pooled)
    assert_same(channels_last(got[1], layout), argmax)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_bins(kernel_implementation, dtype, layout):
    """Ties everywhere, several sizes of blocks, a last vector of channels."""
    features = few_values(1, HEIGHT, WIDTH, CHANNELS).astype(dtype_of(dtype))
    for size in ((2, 3), (3, 1), (7, 7)):
        rois = large_rois(40, seed=size[0])
        if layout == "NCHW":
            for argmax in (False, True):
                assert max(h * w for h, w, _ in tables(layout, rois, size, argmax)) > 1
        check(features, rois, size, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_infinity_and_zeros_of_both_signs(kernel_implementation, dtype, layout):
    r = rng(1)
    features = r.choice(np.float32([0.0, -0.0, -1.0, -INF]), (1, HEIGHT, WIDTH, 40))
    features[:, 20:][r.random((1, HEIGHT - 20, WIDTH, 40)) < 0.01] = NAN
    features[..., 3] = -INF
    features[..., 4] = NAN
    check(features.astype(dtype_of(dtype)), large_rois(40), (2, 2), layout)


def test_channels_last_too_where_bins_are_many_and_large(kernel_implementation):
    rois = large_rois(150)
    features = few_values(1, HEIGHT, WIDTH, CHANNELS)
    for argmax in (False, True):
        assert max(h * w for h, w, _ in tables("NHWC", rois, (2, 2), argmax)) > 1
    check(features, rois, (2, 2), "NHWC")


def test_small_and_large_rois_take_different_ways(kernel_implementation):
    small = large_rois(30)
    small[:, 3:] = small[:, 1:3] + 4
    rois = np.concatenate([large_rois(100, seed=2), small, large_rois(100, seed=3)])
    found = tables("NHWC", rois, (2, 2), True)
    assert 0 < sum(count for _, _, count in found) <= 200
    check(few_values(1, HEIGHT, WIDTH, CHANNELS), rois, (2, 2), "NHWC")


def test_few_rois_of_a_large_map_do_not_read_all_of_it():
    rois = np.array([[0, 5, 5, 12, 12], [0, 90, 90, 99, 99]], np.float32)
    assert tables("NCHW", rois, (2, 2), True, (200, 300, 64)) == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 32, 33, 48, 63, 65])
def test_single_cells_of_one_or_two_vectors(kernel_implementation, channels, shared):
    r = rng(channels)
    low = r.uniform(-3, 40, (40 if shared else 3, 2))
    rois = np.hstack([np.zeros((len(low), 1)), low, low + r.uniform(0, 9, low.shape)])
    rois = rois.astype(np.float32)
    shape = (40, 44, channels) if shared else (80, 90, channels)
    found = tables("NCHW", rois, (5, 5), True, shape)
    assert [(h, w) for h, w, _ in found] == ([(1, 1)] if shared else [])
    features = few_values(1, *shape)
    check(features, rois, (5, 5), "NCHW")
    features[:, 5:, :, channels // 2] = NAN
    check(features, rois, (5, 5), "NCHW")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_beyond_the_map(kernel_implementation, layout):
    """Slivers at the edges, bins of nothing, a map inside one bin."""
    big, far = 1e6, 500
    rois = np.array(
        [
            [0, -big, -big, big, big],
            [0, -far, 3, 2, 40],
            [0, WIDTH - 2, -far, far, far],
            [0, far, far, big, big],
            [0, -far, -far, -5, -5],
            [0, 0, far, WIDTH, big],
        ]
        * 8,
        np.float32,
    )
    rois = np.concatenate([rois, large_rois(60)])
    check(few_values(1, HEIGHT, WIDTH, 17), rois, (3, 4), layout)
