"""vmap equals the loop, and is one call."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import valid_rois
from tests.cases import (
    LAYOUTS,
    channels_last,
    custom_calls,
    few_values,
    in_layout,
    random_rois,
)

B, N, R, H, W, C = 3, 2, 4, 6, 7, 5
SIZE = (2, 3)


def call(op, features, rois, layout="NHWC", **kwargs):
    return op(features, rois, SIZE, layout=layout, **kwargs)


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


@pytest.mark.plain_jax_in_ci(axes=AXES[:3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_vmap_is_the_loop(implementation, op, axes, layout):
    pool = partial(call, op)
    features = moved(in_layout(batch_of_features(), layout), axes[0])
    rois = moved(batch_of_rois(), axes[1])

    def f(features, rois):
        return pool(features, rois, layout)

    got = jax.vmap(f, axes)(features, rois)
    want = loop(f, (features, axes[0]), (rois, axes[1]))
    op.assert_agrees(got, want)
    out = jax.vmap(f, axes, out_axes=-1)(features, rois)
    op.assert_agrees(out, jnp.moveaxis(want, 0, -1))


@pytest.mark.plain_jax_in_ci(forward_mode=(False,), axes=AXES[:3])
@pytest.mark.parametrize(
    ("layout", "forward_mode"),
    [
        ("NHWC", False),
        ("NCHW", True),
        pytest.param("NHWC", True, marks=pytest.mark.nightly),
        pytest.param("NCHW", False, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (3, 1)], ids=str)
def test_vmap_of_grad_and_grad_of_vmap(implementation, op, axes, layout, forward_mode):
    pool = partial(call, op)
    features = moved(in_layout(batch_of_features(), layout), axes[0])
    rois = moved(batch_of_rois(), axes[1])
    weight = np.arange(1.0, 4.0, dtype=np.float32)
    if forward_mode and not op.forward_mode:
        pytest.skip("has forward mode as it is")
    mode = op.forward_mode if forward_mode else {}

    def loss(features, rois, weight):
        pooled = pool(features, rois, layout, **mode)
        return (pooled**2).sum() * weight

    gradient = jax.grad(loss)
    got = jax.vmap(gradient, (*axes, 0))(features, rois, weight)
    want = loop(gradient, (features, axes[0]), (rois, axes[1]), (weight, 0))
    op.assert_agrees(got, want)

    batched = jax.vmap(loss, (*axes, 0))
    got = jax.grad(lambda f: batched(f, rois, weight).sum())(features)
    if axes[0] is None:
        want = want.sum(0)
    else:
        want = jnp.moveaxis(want, 0, axes[0])
    op.assert_agrees(got, want)


def test_all_results_and_valid_under_vmap(implementation, op):
    features, rois = batch_of_features(), batch_of_rois()
    valid = np.arange(B * R).reshape(B, R) % 4 > 0

    def f(features, rois, valid):
        return (
            *op.results(features, rois, SIZE, valid=valid),
            valid_rois(features, rois, valid=valid),
        )

    got = jax.vmap(f)(features, rois, valid)
    for i in range(len(got)):
        want = np.stack([f(features[b], rois[b], valid[b])[i] for b in range(B)])
        op.assert_agrees(got[i], want)
    only_valid = jax.vmap(f, (None, None, 0))(features[0], rois[0], valid)
    for i in range(len(got)):
        want = np.stack([f(features[0], rois[0], valid[b])[i] for b in range(B)])
        op.assert_agrees(only_valid[i], want)


def test_an_index_never_reaches_a_neighbour(implementation, op):
    """Indices N and -1 of one example are other examples' images in memory."""
    pool = partial(call, op)
    features = np.ones((3, N, H, W, C), np.float32)
    rois = np.array([[N, 0, 0, 6, 5], [-1, 0, 0, 6, 5], [1, 0, 0, 6, 5]])
    got = jax.vmap(pool, (0, None))(features, rois.astype(np.float32))
    op.assert_agrees(got[:, :2], 0)
    op.assert_agrees(got[:, 2], 1)
    gradient = jax.grad(
        lambda f: jax.vmap(pool, (0, None))(f, rois[:2].astype(np.float32)).sum()
    )(features)
    op.assert_agrees(gradient, 0)


NESTED = [*itertools.product(AXES[:3], AXES[:3])]


@pytest.mark.plain_jax_in_ci(axes=(NESTED[1], NESTED[5], NESTED[6]))
@pytest.mark.parametrize("axes", NESTED, ids=str)
def test_nested(implementation, op, axes):
    inner, outer = axes
    pool = partial(call, op)
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
    op.assert_agrees(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_image_lifted_is_the_per_image_form(implementation, op, layout):
    pool = partial(call, op)
    features = in_layout(few_values(B, H, W, C), layout)
    boxes = batch_of_rois()[..., 1:]
    op.assert_agrees(
        jax.vmap(lambda f, b: pool(f, b, layout))(features, boxes),
        pool(features, boxes, layout),
    )


def test_vmap_of_higher_order(implementation, op):
    pool = partial(call, op)
    features, rois = batch_of_features(), batch_of_rois()

    def hvp(features, rois):
        gradient = jax.grad(lambda f: (pool(f, rois) ** 3).sum())
        return jax.jvp(gradient, (features,), (features,))[1]

    op.assert_agrees(jax.vmap(hvp)(features, rois), loop(hvp, (features, 0), (rois, 0)))


def test_tangents_and_cotangents_alone(implementation, op):
    """jacfwd and jacrev map only the linear operand."""
    pool = partial(call, op)
    features, rois = batch_of_features()[0], batch_of_rois()[0]
    _, linear = jax.linearize(lambda f: pool(f, rois, **op.forward_mode), features)
    tangents = batch_of_features(seed=4)
    op.assert_agrees(jax.vmap(linear)(tangents), loop(linear, (tangents, 0)))
    out, vjp = jax.vjp(lambda f: pool(f, rois), features)
    cotangents = few_values(B, *out.shape)
    op.assert_agrees(
        jax.vmap(vjp)(cotangents)[0], loop(lambda c: vjp(c)[0], (cotangents, 0))
    )


def test_axis_of_size_one(implementation, op):
    pool = partial(call, op)
    features, rois = batch_of_features()[:1], batch_of_rois()[:1]
    op.assert_agrees(jax.vmap(pool)(features, rois), pool(features[0], rois[0])[None])


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_one_call_and_no_loop(kernels, op, axes, with_gradient):
    pool = partial(call, op)
    features = moved(batch_of_features(), axes[0])
    rois = moved(batch_of_rois(), axes[1])
    mapped = jax.vmap(pool, axes)

    def f(features, rois):
        if with_gradient:
            return jax.grad(lambda f: (mapped(f, rois) ** 2).sum())(features)
        return mapped(features, rois)

    text = jax.jit(f).lower(features, rois).as_text()
    assert "stablehlo.while" not in text
    assert custom_calls(text) == op.calls[with_gradient]


def test_mapped_boxes_do_not_copy_the_features(kernels, op):
    pool = partial(call, op)
    features = jnp.ones((1, 64, 64, 64))
    rois = np.tile(random_rois(2, 1, 64, 64), (50, 1, 1))
    program = jax.jit(jax.vmap(pool, (None, 0))).lower(features, rois).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary < features.nbytes / 10
    assert channels_last(features, "NHWC").nbytes == features.nbytes
