"""Pooled values and argmax equal the oracle's, on every implementation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_pool, roi_pool_with_argmax, valid_rois
from tests import oracle
from tests.cases import (
    CASES,
    CHANNEL_CASES,
    DTYPES,
    LAYOUTS,
    assert_same,
    channels_last,
    dtype_of,
    few_values,
    in_layout,
    normal,
    random_rois,
)
from tests.conftest import wide


@partial(jax.jit, static_argnums=(2, 3, 5))
def pool_both(features, rois, size, scale, valid, layout):
    kwargs = {"valid": valid, "layout": layout}
    plain = roi_pool(features, rois, size, scale, **kwargs)
    return plain, *roi_pool_with_argmax(features, rois, size, scale, **kwargs)


def check(case, dtype, layout):
    features = case.features_as(dtype)
    want_pooled, want_argmax = oracle.roi_pool(
        features, case.rois, case.size, case.scale, case.valid
    )
    with wide(dtype):
        plain, pooled, argmax = pool_both(
            in_layout(features, layout),
            case.rois,
            case.size,
            case.scale,
            case.valid,
            layout,
        )
    assert plain.dtype == pooled.dtype == features.dtype
    assert argmax.dtype == jnp.int32
    assert_same(channels_last(plain, layout), want_pooled)
    assert_same(channels_last(pooled, layout), want_pooled)
    assert_same(channels_last(argmax, layout), want_argmax)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(implementation, case, dtype, layout):
    check(case, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CHANNEL_CASES, ids=str)
def test_channels(kernel_implementation, case, dtype, layout):
    check(case, dtype, layout)


def test_float64_is_compared_as_float64(implementation, x64):
    features = 1.0 + np.arange(12).reshape(1, 3, 4, 1) * 1e-15
    rois = np.array([[0, 0, 0, 3, 2]])
    pooled, argmax = roi_pool_with_argmax(features, rois, 1)
    assert pooled[0, 0, 0, 0] == features.max()
    assert argmax[0, 0, 0, 0] == 11
    assert roi_pool(-features * 1e300, rois, 1)[0, 0, 0, 0] == -1e300


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_are_not_flushed(implementation, dtype):
    tiny = (
        np.finfo(dtype_of(dtype)).smallest_subnormal
        if (dtype != "bfloat16")
        else dtype_of(dtype).type(1e-40)
    )
    features = np.zeros((1, 2, 4, 3), dtype_of(dtype))
    features[0, 1, 2] = tiny
    with wide(dtype):
        pooled, argmax = roi_pool_with_argmax(
            features, np.array([[0, 0, 0, 3, 1.0]]), 1
        )
    assert (np.asarray(argmax) == 6).all()
    assert (np.asarray(pooled) == tiny).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_against_every_kind(implementation, dtype):
    """All 65536 bit patterns, each in a bin with one of several others."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype_of(dtype))
    for other in (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -3e-5):
        pair = np.stack([every, np.full_like(every, other)])
        for features in (pair, pair[::-1]):
            features = features.reshape(1, 1, 2, 2**16)
            rois = np.array([[0, 0, 0, 1, 0]], np.float32)
            pooled, argmax = oracle.roi_pool(features, rois, (1, 1), (1, 1))
            got = roi_pool_with_argmax(features, rois, 1)
            assert_same(got[1], argmax)
            assert_same(got[0], pooled)
            assert_same(roi_pool(features, rois, 1), pooled)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_forms_agree(implementation, layout):
    features = in_layout(normal(3, 9, 11, 20), layout)
    boxes = random_rois(12, 1, 9, 11)[:, 1:].reshape(3, 4, 4)
    valid = np.arange(12).reshape(3, 4) % 3 > 0
    index = np.repeat(np.arange(3, dtype=np.float32), 4)[:, None]
    flat = np.concatenate([index, boxes.reshape(12, 4)], axis=1)

    def pool(features, rois, valid):
        return roi_pool_with_argmax(features, rois, (3, 2), valid=valid, layout=layout)

    expected = pool(features, flat, valid.reshape(12))
    per_image = pool(features, boxes, valid)
    for got, want in zip(per_image, expected, strict=True):
        assert got.shape == (3, 4, *want.shape[1:])
        assert_same(got.reshape(want.shape), want)
    for i in range(3):
        single = pool(features[i], boxes[i], valid[i])
        for got, want in zip(single, per_image, strict=True):
            assert_same(got, want[i])


@pytest.mark.plain_jax_by_day(dtype=("uint8", "bfloat16", "float64"))
@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"]
    + ["float16", "bfloat16", "float32", "float64"],
)
def test_rois_of_every_real_dtype(implementation, dtype):
    features = normal(2, 9, 11, 3)
    rois = np.array([[1, 2, 3, 8, 7], [0, 0, 0, 10, 8], [2, 0, 0, 5, 5]])
    expected = roi_pool(features, rois.astype(np.float32), 2)
    with wide(dtype):
        got = roi_pool(features, jnp.asarray(rois.astype(dtype_of(dtype))), 2)
    assert_same(got, expected)


@pytest.mark.parametrize("images", [200, 300])
def test_image_index_is_read_as_it_came(implementation, images):
    """No dtype of the RoIs may wrap or round the index or the number of images."""
    features = np.arange(images, dtype=np.float32).reshape(images, 1, 1, 1)

    def pool(index, dtype):
        rois = np.zeros((len(index), 5), dtype)
        rois[:, 0] = index
        return np.asarray(roi_pool(features, jnp.asarray(rois), 1)).ravel()

    assert_same(pool([127, -128, -1], np.int8), [127, 0, 0])
    assert_same(pool([199, 255], np.uint8), [199, 255 if images > 255 else 0])
    assert_same(pool([2**32 - 1, 2**31, 5], np.uint32), [0, 0, 5])
    assert_same(
        pool([199.9, -0.5, 0.999, images - 0.1, images, 3e38], np.float32),
        [199, 0, 0, images - 1, 0, 0],
    )


def test_wide_integers_do_not_wrap(implementation):
    features = np.full((1, 4, 4, 1), 7, np.float32)
    rois = np.array([[2**32, 0, 0, 3, 3], [0, 2**32, 2**32, 3, 3]], np.int64)
    pooled = roi_pool(features, rois, 1)  # 64-bit types are off
    assert pooled[0, 0, 0, 0] == 0  # there is no image 2**32
    assert pooled[1, 0, 0, 0] == 0  # a box far to the right, reversed
    with jax.enable_x64(True):
        assert_same(roi_pool(jnp.asarray(features), jnp.asarray(rois), 1), pooled)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_columns_are_not_swapped(implementation, layout):
    features = np.arange(3 * 50, dtype=np.float32).reshape(1, 3, 50, 1)
    rois = np.array([[0, 40, 0, 49, 2]], np.float32)  # x right, y all
    got = roi_pool(in_layout(features, layout), rois, (3, 1), layout=layout)
    assert_same(np.asarray(got).ravel(), [49.0, 99.0, 149.0])


def test_valid_rois(implementation):
    nan, inf = np.nan, np.inf
    rois = np.array(
        [
            [0, 0, 0, 5, 5],
            [1, 5, 5, 0, 0],  # reversed: not empty
            [1, 90, 90, 99, 99],  # outside: not empty
            [2, 0, 0, 5, 5],
            [-1, 0, 0, 5, 5],
            [nan, 0, 0, 5, 5],
            [0, 0, nan, 5, 5],
            [0, 0, 0, inf, 5],
            [0, 0, 0, 5, 5],
        ],
        np.float32,
    )
    valid = np.ones(9, bool)
    valid[-1] = False
    expected = [True, True, True] + [False] * 6
    features = np.zeros((2, 8, 8, 1), np.float32)
    got = valid_rois(features, rois, valid=valid)
    assert got.dtype == jnp.bool_
    assert_same(got, expected)
    assert_same(jax.jit(valid_rois)(features, rois), expected[:-1] + [True])
    with jax.enable_x64(True):  # finite as float64, not as float32
        wide_roi = jnp.array([[0, 0, 0, 1e39, 5]], jnp.float64)
        assert not valid_rois(features, wide_roi)[0]


def test_large_maps_and_many_bins(implementation):
    features = few_values(1, 3, 40000, 2)
    rois = np.array([[0, 0, 0, 39999, 2], [0, 100, 1, 39000, 1]], np.float32)
    for size in ((1, 3), (2, 500)):
        pooled, argmax = oracle.roi_pool(features, rois, size, (1, 1))
        got = roi_pool_with_argmax(features, rois, size)
        assert_same(got[0], pooled)
        assert_same(got[1], argmax)


def test_tiny_and_huge_scales(implementation):
    """A scale may be subnormal, where XLA's threads read zero."""
    features = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    huge, large = 3e38, 1e30
    for scale, x2, y2 in (
        (1e-38, huge, 2 * large),
        (1e-40, huge, huge),
        (1e-45, huge, huge),
        (2**-126, huge, huge),
        (3e38, 1e-38, 1e-38),
        (1e25, 3e-25, 2e-25),
    ):
        rois = np.array([[0, 0, 0, x2, y2]], np.float32)
        if implementation == "plain" and scale == 3e38:
            continue  # docs/design/portable.md
        _, argmax = oracle.roi_pool(features, rois, (1, 1), (scale, scale))
        got = roi_pool_with_argmax(features, rois, 1, scale)
        assert_same(got[1], argmax)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_an_index_just_below_zero_names_no_image(implementation, dtype):
    features = np.ones((2, 3, 4, 1), np.float32)
    index = np.zeros(5, dtype_of(dtype))
    tiny = np.finfo(np.float64 if dtype == "float64" else np.float32)
    smallest = 6e-8 if dtype == "float16" else float(tiny.tiny) / 8
    index[:] = [-smallest, smallest, -0.0, 0.0, -1e-4]
    assert index[0] < 0
    rois = np.zeros((5, 5), dtype_of(dtype))
    rois[:, 0] = index
    with wide(dtype):
        got = roi_pool(features, jnp.asarray(rois), 1)
    assert_same(np.ravel(got), [0, 1, 1, 1, 0])


def test_float64_indices_of_numpy_are_not_rounded(implementation):
    features = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) + 5
    rois = np.zeros((6, 5))
    rois[:, 0] = [1.99999999999, 2.99999999999, -1e-60, 0.0, np.nan, np.inf]
    before = rois.copy()
    assert_same(np.ravel(roi_pool(features, rois, 1)), [6, 7, 0, 5, 0, 0])
    np.testing.assert_array_equal(rois, before)
    assert_same(valid_rois(features, rois), [1, 1, 0, 1, 0, 0])


def test_rois_of_eight_bits(implementation):
    rois = jnp.array([[1, 2, 3, 8, 7], [0, 0, 0, 10, 8]], jnp.float8_e5m2)
    features = normal(2, 9, 11, 3)
    assert_same(
        roi_pool(features, rois, 2), roi_pool(features, rois.astype("float32"), 2)
    )
