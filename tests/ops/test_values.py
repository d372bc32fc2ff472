"""Results of every op equal the oracle's, on every implementation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import table
from tests.cases import (
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

by_case = pytest.mark.parametrize(
    ("op", "case"), [(op, case) for op in table.ROWS for case in op.cases], ids=str
)


@partial(jax.jit, static_argnums=(0, 2, 3))
def results(op, arrays, calls, layout):
    """Of several calls, in one program."""
    return [
        op.results(features, rois, size, scale, valid=valid, layout=layout)
        for (features, rois, valid), (size, scale) in zip(arrays, calls, strict=True)
    ]


def check(op, cases, dtype, layout):
    with wide(dtype):
        arrays = [
            (in_layout(case.features_as(dtype), layout), case.rois, case.valid)
            for case in cases
        ]
        calls = tuple((case.size, case.scale) for case in cases)
        got = results(op, arrays, calls, layout)
    for case, (first, *rest) in zip(cases, got, strict=True):
        (result, *others), slack = table.case_answers(op, case, dtype)
        assert first.dtype == dtype_of(dtype)
        op.assert_near(channels_last(first, layout), result, slack)
        for x, want in zip(rest, others, strict=True):
            assert x.dtype == want.dtype
            assert_same(channels_last(x, layout), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@by_case
def test_case(implementation, op, case, dtype, layout):
    check(op, [case], dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels(kernel_implementation, op, dtype, layout):
    check(op, op.channel_cases, dtype, layout)


def test_large_maps_and_many_bins(implementation, op):
    features = few_values(1, 3, 40000, 2)
    rois = np.array([[0, 0, 0, 39999, 2], [0, 100, 1, 39000, 1]], np.float32)
    for size in ((1, 3), (2, 500)):
        (result, *others), slack = op.wanted(features, rois, size)
        got = op.results(features, rois, size)
        op.assert_near(got[0], result, slack)
        for x, want in zip(got[1:], others, strict=True):
            assert_same(x, want)


# --- Forms and layouts -------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_forms_agree(implementation, op, layout):
    features = in_layout(normal(3, 9, 11, 20), layout)
    boxes = random_rois(12, 1, 9, 11)[:, 1:].reshape(3, 4, 4)
    valid = np.arange(12).reshape(3, 4) % 3 > 0
    index = np.repeat(np.arange(3, dtype=np.float32), 4)[:, None]
    flat = np.concatenate([index, boxes.reshape(12, 4)], axis=1)

    def pool(features, rois, valid):
        return op.results(features, rois, (3, 2), valid=valid, layout=layout)

    expected = pool(features, flat, valid.reshape(12))
    per_image = pool(features, boxes, valid)
    for got, want in zip(per_image, expected, strict=True):
        assert got.shape == (3, 4, *want.shape[1:])
        op.assert_agrees(got.reshape(want.shape), want)
    for i in range(3):
        single = pool(features[i], boxes[i], valid[i])
        for got, want in zip(single, per_image, strict=True):
            op.assert_agrees(got, want[i])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_columns_are_not_swapped(implementation, op, layout):
    features = np.arange(3 * 50, dtype=np.float32).reshape(1, 3, 50, 1)
    rois = np.array([[0, 40, 0, 49, 2]], np.float32)  # x right, y all
    got = op(in_layout(features, layout), rois, (3, 1), layout=layout)
    (want, *_), slack = op.wanted(features, rois, (3, 1))
    op.assert_near(channels_last(got, layout), want, slack)
    rows = np.ravel(got) // 50
    assert_same(rows, [0, 1, 2])


# --- RoIs and their indices of every dtype -----------------------------------


@pytest.mark.plain_jax_in_ci(dtype=("uint8", "bfloat16", "float64"))
@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"]
    + ["float16", "bfloat16", "float32", "float64"],
)
def test_rois_of_every_real_dtype(implementation, op, dtype):
    features = normal(2, 9, 11, 3)
    rois = np.array([[1, 2, 3, 8, 7], [0, 0, 0, 10, 8], [2, 0, 0, 5, 5]])
    expected = op(features, rois.astype(np.float32), 2)
    with wide(dtype):
        got = op(features, jnp.asarray(rois.astype(dtype_of(dtype))), 2)
    op.assert_agrees(got, expected)


def test_image_index_is_read_as_it_came(implementation, op):
    """No dtype of the RoIs may wrap or round the index or the number of images."""

    def pool(index, dtype, images=300):
        # Two cells, so that boxes of one cell by any convention see the image's number.
        features = np.arange(images, dtype=np.float32).reshape(images, 1, 1, 1)
        features = np.broadcast_to(features, (images, 2, 2, 1))
        rois = np.zeros((len(index), 5), dtype)
        rois[:, 0], rois[:, 3:] = index, 1
        return np.asarray(op(features, jnp.asarray(rois), 1)).ravel()

    assert_same(pool([127, -128, -1], np.int8), [127, 0, 0])
    assert_same(pool([199, 255], np.uint8), [199, 255])
    assert_same(pool([199, 255], np.uint8, images=200), [199, 0])
    assert_same(pool([2**32 - 1, 2**31, 5], np.uint32), [0, 0, 5])
    assert_same(
        pool([299.9, -0.5, 0.999, 300 - 0.1, 300, 3e38], np.float32),
        [299, 0, 0, 299, 0, 0],
    )


def test_wide_integers_do_not_wrap(implementation, op):
    features = np.full((1, 4, 4, 1), 7, np.float32)
    rois = np.array([[2**32, 0, 0, 3, 3], [0, 2**32, 2**32, 3, 3]], np.int64)
    pooled = op(features, rois, 1)  # 64-bit types are off
    assert pooled[0, 0, 0, 0] == 0  # there is no image 2**32
    assert pooled[1, 0, 0, 0] == 0  # a box far to the right, reversed
    with jax.enable_x64(True):
        assert_same(op(jnp.asarray(features), jnp.asarray(rois), 1), pooled)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_an_index_just_below_zero_names_no_image(implementation, op, dtype):
    features = np.ones((2, 3, 4, 1), np.float32)
    index = np.zeros(5, dtype_of(dtype))
    tiny = np.finfo(np.float64 if dtype == "float64" else np.float32)
    smallest = 6e-8 if dtype == "float16" else float(tiny.tiny) / 8
    index[:] = [-smallest, smallest, -0.0, 0.0, -1e-4]
    assert index[0] < 0
    rois = np.zeros((5, 5), dtype_of(dtype))
    rois[:, 0], rois[:, 3:] = index, 1
    with wide(dtype):
        got = op(features, jnp.asarray(rois), 1)
    assert_same(np.ravel(got), [0, 1, 1, 1, 0])


def test_float64_indices_of_numpy_are_not_rounded(implementation, op):
    features = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) + 5
    features = np.broadcast_to(features, (3, 2, 2, 1))
    rois = np.zeros((6, 5))
    rois[:, 0] = [1.99999999999, 2.99999999999, -1e-60, 0.0, np.nan, np.inf]
    rois[:, 3:] = 1
    before = rois.copy()
    assert_same(np.ravel(op(features, rois, 1)), [6, 7, 0, 5, 0, 0])
    np.testing.assert_array_equal(rois, before)


def test_rois_of_eight_bits(implementation, op):
    rois = jnp.array([[1, 2, 3, 8, 7], [0, 0, 0, 10, 8]], jnp.float8_e5m2)
    features = normal(2, 9, 11, 3)
    op.assert_agrees(op(features, rois, 2), op(features, rois.astype("float32"), 2))
