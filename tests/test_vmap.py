"""vmap equals the loop, and is one call."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_pool, roi_pool_with_argmax, valid_rois
from tests.cases import (
    LAYOUTS,
    channels_last,
    few_values,
    in_layout,
    random_rois,
)
from tests.test_gradients import calls

B, N, R, H, W, C = 3, 2, 4, 6, 7, 5
SIZE = (2, 3)


def pool(features, rois, layout="NHWC", **kwargs):
    return roi_pool(features, rois, SIZE, layout=layout, **kwargs)


def batch_of_features(seed=0):
    return few_values(B, N, H, W, C, seed=seed)


def batch_of_rois(seed=0):
    rois = [random_rois(R, N + 1, H, W, seed=seed + b) for b in range(B)]
    return np.stack(rois)  # some name image 2, which is none


def slices(x, axis):
    return [x] * B if axis is None else [jnp.take(x, b, axis) for b in range(B)]


def moved(x, axis):
    return x[0] if axis is None else np.moveaxis(x, 0, axis)


def loop(f, *args_and_axes):
    return jnp.stack(
        [
            f(*args)
            for args in zip(*itertools.starmap(slices, args_and_axes), strict=True)
        ]
    )


AXES = [(0, 0), (0, None), (None, 0), (2, 1), (-1, 2), (4, None), (None, -1)]


@pytest.mark.plain_jax_by_day(axes=AXES[:3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_vmap_is_the_loop(implementation, axes, layout):
    features = moved(in_layout(batch_of_features(), layout), axes[0])
    rois = moved(batch_of_rois(), axes[1])

    def f(features, rois):
        return pool(features, rois, layout)

    got = jax.vmap(f, axes)(features, rois)
    want = loop(f, (features, axes[0]), (rois, axes[1]))
    np.testing.assert_array_equal(got, want)
    out = jax.vmap(f, axes, out_axes=-1)(features, rois)
    np.testing.assert_array_equal(out, jnp.moveaxis(want, 0, -1))


@pytest.mark.plain_jax_by_day(forward_mode=(False,))
@pytest.mark.parametrize("forward_mode", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (3, 1)])
def test_vmap_of_grad_and_grad_of_vmap(implementation, axes, layout, forward_mode):
    features = moved(in_layout(batch_of_features(), layout), axes[0])
    rois = moved(batch_of_rois(), axes[1])
    weight = np.arange(1.0, 4.0, dtype=np.float32)

    def loss(features, rois, weight):
        pooled = pool(features, rois, layout, forward_mode=forward_mode)
        return (pooled**2).sum() * weight

    gradient = jax.grad(loss)
    got = jax.vmap(gradient, (*axes, 0))(features, rois, weight)
    want = loop(gradient, (features, axes[0]), (rois, axes[1]), (weight, 0))
    np.testing.assert_array_equal(got, want)

    batched = jax.vmap(loss, (*axes, 0))
    got = jax.grad(lambda f: batched(f, rois, weight).sum())(features)
    if axes[0] is None:
        want = want.sum(0)
    else:
        want = jnp.moveaxis(want, 0, axes[0])
    np.testing.assert_array_equal(got, want)


def test_argmax_and_valid_under_vmap(implementation):
    features, rois = batch_of_features(), batch_of_rois()
    valid = np.arange(B * R).reshape(B, R) % 4 > 0

    def f(features, rois, valid):
        return (
            *roi_pool_with_argmax(features, rois, SIZE, valid=valid),
            valid_rois(features, rois, valid=valid),
        )

    got = jax.vmap(f)(features, rois, valid)
    for i in range(3):
        want = np.stack([f(features[b], rois[b], valid[b])[i] for b in range(B)])
        np.testing.assert_array_equal(got[i], want)
    only_valid = jax.vmap(f, (None, None, 0))(features[0], rois[0], valid)
    for i in range(3):
        want = np.stack([f(features[0], rois[0], valid[b])[i] for b in range(B)])
        np.testing.assert_array_equal(only_valid[i], want)


def test_an_index_never_reaches_a_neighbour(implementation):
    """Indices N and -1 of one example are other examples' images in memory."""
    features = np.ones((3, N, H, W, C), np.float32)
    rois = np.array([[N, 0, 0, 6, 5], [-1, 0, 0, 6, 5], [1, 0, 0, 6, 5]])
    got = jax.vmap(pool, (0, None))(features, rois.astype(np.float32))
    np.testing.assert_array_equal(got[:, :2], 0)
    np.testing.assert_array_equal(got[:, 2], 1)
    gradient = jax.grad(
        lambda f: jax.vmap(pool, (0, None))(f, rois[:2].astype(np.float32)).sum()
    )(features)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("inner", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("outer", [(0, 0), (0, None), (None, 0)])
def test_nested(implementation, inner, outer):
    shape = [N, H, W, C]
    roi_shape = [R]
    for features_axis, rois_axis in (inner, outer):
        if features_axis is not None:
            shape.insert(0, B)
        if rois_axis is not None:
            roi_shape.insert(0, B)
    features = few_values(*shape)
    count = int(np.prod(roi_shape))
    rois = random_rois(count, N, H, W).reshape(*roi_shape, 5)
    got = jax.vmap(jax.vmap(pool, inner), outer)(features, rois)
    want = loop(
        lambda f, r: loop(pool, (f, inner[0]), (r, inner[1])),
        (features, outer[0]),
        (rois, outer[1]),
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_image_lifted_is_the_per_image_form(implementation, layout):
    features = in_layout(few_values(B, H, W, C), layout)
    boxes = batch_of_rois()[..., 1:]
    np.testing.assert_array_equal(
        jax.vmap(lambda f, b: pool(f, b, layout))(features, boxes),
        pool(features, boxes, layout),
    )


def test_vmap_of_higher_order(implementation):
    features, rois = batch_of_features(), batch_of_rois()

    def hvp(features, rois):
        gradient = jax.grad(lambda f: (pool(f, rois) ** 3).sum())
        return jax.jvp(gradient, (features,), (features,))[1]

    np.testing.assert_array_equal(
        jax.vmap(hvp)(features, rois), loop(hvp, (features, 0), (rois, 0))
    )


def test_tangents_and_cotangents_alone(implementation):
    """jacfwd and jacrev map only the linear operand."""
    features, rois = batch_of_features()[0], batch_of_rois()[0]
    _, linear = jax.linearize(lambda f: pool(f, rois, forward_mode=True), features)
    tangents = batch_of_features(seed=4)
    np.testing.assert_array_equal(
        jax.vmap(linear)(tangents), loop(linear, (tangents, 0))
    )
    out, vjp = jax.vjp(lambda f: pool(f, rois), features)
    cotangents = few_values(B, *out.shape)
    np.testing.assert_array_equal(
        jax.vmap(vjp)(cotangents)[0], loop(lambda c: vjp(c)[0], (cotangents, 0))
    )


def test_axis_of_size_one(implementation):
    features, rois = batch_of_features()[:1], batch_of_rois()[:1]
    np.testing.assert_array_equal(
        jax.vmap(pool)(features, rois), pool(features[0], rois[0])[None]
    )


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_one_call_and_no_loop(kernels, axes, with_gradient):
    features = moved(batch_of_features(), axes[0])
    rois = moved(batch_of_rois(), axes[1])
    mapped = jax.vmap(pool, axes)

    def f(features, rois):
        if with_gradient:
            return jax.grad(lambda f: (mapped(f, rois) ** 2).sum())(features)
        return mapped(features, rois)

    text = jax.jit(f).lower(features, rois).as_text()
    assert "stablehlo.while" not in text
    assert calls(text) == (
        {"roi_pool_argmax": 1, "roi_scatter": 1} if with_gradient else {"roi_pool": 1}
    )


def test_mapped_boxes_do_not_copy_the_features(kernels):
    features = jnp.ones((1, 64, 64, 64))
    rois = np.tile(random_rois(2, 1, 64, 64), (50, 1, 1))
    program = jax.jit(jax.vmap(pool, (None, 0))).lower(features, rois).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary < features.nbytes / 10
    assert channels_last(features, "NHWC").nbytes == features.nbytes
