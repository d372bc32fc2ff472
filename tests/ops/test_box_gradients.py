"""Gradients of boxes: `box_gradient=True`, in every mode and order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_roipool import roi_align
from tests import table
from tests.cases import (
    DTYPES,
    LAYOUTS,
    custom_calls,
    dtype_of,
    few_values,
    in_layout,
    normal,
    random_rois,
)
from tests.conftest import wide
from tests.oracle import roi_align as oracle

SIZE, SCALE = (3, 2), (0.5, 0.25)
WAYS = {
    "aligned, adaptive": {},
    "ratio 2": {"sampling_ratio": (2, 1), "aligned": False},
    "not aligned, adaptive": {"aligned": False},
}
by_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def inputs():
    features = few_values(2, 8, 10, 5)
    rois = random_rois(14, 2, 8, 10, 0.3, seed=6)
    rois[0, 1:] = [-9, 2, 60, 19]  # out of the map on both sides
    rois[1, 1:] = [4, 4, 4.5, 5]  # less than a cell
    rois[2, 1:] = [20, 8, 8, 2]  # reversed
    rois[3, 1:] = [0, 0, 40, 16]  # samples on cells
    rois[4, 1:] = [0, 0, 3e38, 5]
    rois[5, 2] = np.nan
    rois[6, 0] = 2
    return features, rois, np.arange(14) != 7


def gradient(features, cotangent, rois, valid, layout, **way):
    def pulled(rois):
        pooled = roi_align(
            features,
            rois,
            SIZE,
            SCALE,
            valid=valid,
            layout=layout,
            box_gradient=True,
            **way,
        )
        wide = jnp.promote_types(pooled.dtype, jnp.float32)
        return (pooled.astype(wide) * cotangent).sum()

    return jax.jit(jax.grad(pulled))(rois)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@by_way
def test_box_gradient_equals_the_oracle(implementation, way, dtype, layout):
    features, rois, valid = inputs()
    cotangent = few_values(len(rois), *SIZE, 5, seed=9)
    args = rois, SIZE, SCALE, valid
    want = oracle.box_gradient(cotangent, features, *args, **way)
    slack = oracle.box_gradient(np.abs(cotangent), np.abs(features), *args, **way)
    slack = table.TOLERANCE * (np.abs(slack) + np.abs(want).max())
    with wide(dtype):
        got = gradient(
            in_layout(features, layout).astype(dtype_of(dtype)),
            in_layout(cotangent, layout),
            rois,
            valid,
            layout,
            **way,
        )
    assert got.dtype == np.float32
    got = np.asarray(got)
    assert (np.abs(got[:, 1:] - want) <= slack).all(), np.abs(got[:, 1:] - want).max()
    assert not got[:, 0].any()
    assert got[:4, 1:].any()
    assert not got[4:8].any()


def test_a_sample_on_a_cell(lowered_to):
    """The derivative is the one to the right; where a sample was moved it is 0."""
    features = jnp.array([0.0, 1, 4, 9]).reshape(1, 4, 1)

    def at(x):
        boxes = jnp.array([[x, 0.5, x, 0.5]])
        pooled = roi_align(features, boxes, 1, sampling_ratio=1, box_gradient=True)
        return pooled[0, 0, 0, 0]

    slopes = jax.vmap(jax.grad(at))(0.5 + jnp.array([1.0, 0.5, 2.0, -0.25, 0.0, 3.0]))
    np.testing.assert_array_equal(slopes, [3, 1, 5, 0, 1, 0])


def test_every_order(kernels, x64):
    """Features and boxes in float64, where the geometry is too."""
    features = jnp.asarray(normal(2, 6, 7, 1), jnp.float64)
    boxes = jnp.array([[[1.3, 0.6, 8.9, 9.4]], [[-3.1, 2.2, 7.7, 16.3]]])
    f = partial(
        roi_align,
        output_size=2,
        spatial_scale=0.5,
        sampling_ratio=2,
        box_gradient=True,
    )
    check_grads(f, (features, boxes), order=2, modes=["fwd", "rev"], eps=1e-6)
    # Piecewise linear along each axis: the third derivative is 0, the second is not.
    second = jax.jacfwd(jax.jacrev(lambda b: f(features, b).sum()))(boxes)
    assert np.abs(second).max() > 0.1
    third = jax.jacfwd(jax.jacfwd(jax.jacrev(lambda b: f(features, b).sum())))(boxes)
    assert not np.asarray(third).any()


def test_one_call_reads_features_once(kernels):
    features, rois, _ = inputs()

    def loss(features, rois):
        return (roi_align(features, rois, SIZE, SCALE, box_gradient=True) ** 2).sum()

    text = jax.jit(jax.grad(loss, argnums=1)).lower(features, rois).as_text()
    assert custom_calls(text) == {"roi_align": 1, "roi_align_box_gradient": 1}
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(features, rois).as_text()
    assert custom_calls(text) == {
        "roi_align": 1,
        "roi_align_box_gradient": 1,
        "roi_align_transpose": 1,
    }


def test_pyramids_and_vmap(lowered_to):
    """The gradient of each RoI's box is that of its level's call."""
    maps = [few_values(2, 8, 10, 3), few_values(2, 4, 5, 3, seed=1)]
    _, rois, _ = inputs()
    levels = np.arange(len(rois)) % 2

    def loss(maps, rois, scale, **kwargs):
        pooled = roi_align(maps, rois, SIZE, scale, box_gradient=True, **kwargs)
        return (pooled**2).sum()

    gradient = jax.grad(loss, argnums=1)
    got = gradient(maps, rois, [0.5, 0.25], levels=levels)
    for level, scale in enumerate((0.5, 0.25)):
        here = levels == level
        want = gradient(maps[level], rois, scale, valid=here)
        np.testing.assert_allclose(got[here], want[here], rtol=1e-4, atol=1e-4)
    several = np.stack([rois, rois[::-1]])
    got = jax.vmap(lambda r: gradient(maps[0], r, 0.5))(several)
    want = gradient(maps[0], rois, 0.5)
    np.testing.assert_allclose(got, [want, want[::-1]], rtol=1e-4, atol=1e-4)


def test_boxes_have_none_without_it():
    features, rois, _ = inputs()
    got = jax.grad(lambda r: roi_align(features, r, SIZE).sum())(rois)
    assert not np.asarray(got).any()
    with pytest.raises(TypeError, match="box_gradient must be a static bool"):
        roi_align(features, rois, SIZE, box_gradient=1)
