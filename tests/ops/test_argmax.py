"""What is true of the maximum alone: ties, order, NaN, and the stored argmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_pool, roi_pool_with_argmax
from tests.cases import (
    DTYPES,
    LAYOUTS,
    assert_same,
    custom_calls,
    dtype_of,
    few_values,
    in_layout,
    normal,
    random_rois,
    smooth,
)
from tests.conftest import wide
from tests.cuda import on_host
from tests.oracle import roi_pool as oracle

SHAPE = (2, 7, 9, 5)
ROIS = random_rois(6, 2, 7, 9, seed=2)


def pool(features, rois=ROIS, **kwargs):
    return roi_pool(features, rois, (3, 2), **kwargs)


# --- Values ------------------------------------------------------------------


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
            continue  # docs/design/plain.md
        _, argmax = oracle.roi_pool(features, rois, (1, 1), (scale, scale))
        got = roi_pool_with_argmax(features, rois, 1, scale)
        assert_same(got[1], argmax)


# --- Derivatives -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_summed_in_float32(implementation, layout, dtype):
    """300 RoIs over one cell: 1 + 299 * 2**-9 would stay 1 in half precision."""
    features = in_layout(np.ones((1, 1, 1, 3), dtype_of(dtype)), layout)
    rois = np.zeros((300, 5), np.float32)
    cotangent = np.full((300, 1, 1, 3), 2.0**-9)
    cotangent[0] = 1
    cotangent = in_layout(cotangent.astype(dtype_of(dtype)), layout)
    _, vjp = jax.vjp(lambda f: roi_pool(f, rois, 1, layout=layout), features)
    want = np.full(3, 1 + 299 * 2.0**-9, np.float32).astype(dtype_of(dtype))
    assert_same(np.ravel(vjp(jnp.asarray(cotangent))[0]), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_of_every_sum(implementation, dtype):
    """Sums around every half-precision number round to nearest, ties to even."""
    half = dtype_of(dtype)
    # A block of threads for each channel: slow on the host.
    every = 67 if implementation == on_host.NAME else 7
    low = np.arange(0, 2**16, every, dtype=np.uint16).view(half)
    low = low[np.isfinite(low.astype(np.float32))]
    # Added to x, a quarter, a half and three quarters of x's last digit.
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.spacing(low.astype(np.float32).astype(half))
        step = np.where(np.isfinite(step), step, half.type(0)).astype(np.float32)
    for share in (0.25, 0.5, 0.75):
        with np.errstate(over="ignore", under="ignore"):
            addend = (np.abs(step) * share).astype(half)
            total = low.astype(np.float32) + addend.astype(np.float32)
            want = total.astype(half)
        features = np.zeros((1, 1, 1, len(low)), half)
        rois = np.zeros((2, 5), np.float32)
        cotangent = np.stack([low, addend]).reshape(2, 1, 1, -1)
        _, vjp = jax.vjp(lambda f, r=rois: roi_pool(f, r, 1), features)
        got = np.asarray(vjp(jnp.asarray(cotangent))[0]).ravel()
        if implementation == "plain":  # XLA on CPU flushes these to zero
            normal_ = np.abs(total) >= np.finfo(np.float32).tiny
            normal_ &= np.abs(addend.astype(np.float32)) >= np.finfo(np.float32).tiny
            got, want = got[normal_], want[normal_]
        assert_same(got, want)


def test_not_a_number_ends_where_it_belongs(implementation):
    features = jnp.arange(12.0).reshape(1, 3, 4, 1)
    rois = jnp.array([[0, 0, 0, 1, 1.0], [0, 2, 1, 3, 2.0], [0, 2, 0, 3, 0]])
    cotangent = jnp.array([jnp.nan, jnp.inf, 1.0]).reshape(3, 1, 1, 1)
    _, vjp = jax.vjp(lambda f: roi_pool(f, rois, 1), features)
    want = np.zeros((3, 4))
    want[1, 1], want[2, 3], want[0, 3] = np.nan, np.inf, 1
    np.testing.assert_array_equal(vjp(cotangent)[0][0, ..., 0], want)


def test_hessian_and_its_relatives(implementation):
    features = smooth(np.zeros((1, 4, 3, 2)))
    rois = np.array([[0, 0, 0, 2, 3], [0, 1, 1, 2, 2]], np.float32)

    def loss(x):
        return (roi_pool(x, rois, 2) ** 3).sum()

    def loss_of_plain_jax(x):
        """The same function in operations that JAX differentiates itself."""
        _, argmax = roi_pool_with_argmax(jax.lax.stop_gradient(x), rois, 2)
        flat = x[0].reshape(12, 2)
        picked = jnp.take_along_axis(
            flat, jnp.maximum(argmax, 0).reshape(8, 2), axis=0
        ).reshape(argmax.shape)
        return (jnp.where(argmax >= 0, picked, 0) ** 3).sum()

    def third(f):
        return jax.grad(lambda x: jax.grad(lambda x: jax.grad(f)(x).sum())(x).sum())

    @jax.jit
    def got(x):
        return (
            jax.hessian(loss)(x),  # forward over reverse
            jax.jacrev(jax.grad(loss))(x),  # reverse over reverse
            jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1],
            third(loss)(x),
        )

    @jax.jit
    def want(x):
        hessian = jax.hessian(loss_of_plain_jax)(x)
        product = jnp.tensordot(hessian, jnp.ones_like(x), axes=4)
        return hessian, hessian, product, third(loss_of_plain_jax)(x)

    for x, y in zip(got(features), want(features), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_forward_mode(implementation):
    features = jnp.asarray(few_values(*SHAPE))
    tangent = jnp.asarray(normal(*SHAPE))

    def f(x):
        return pool(x, forward_mode=True)

    pooled, derivative = jax.jvp(f, (features,), (tangent,))
    np.testing.assert_array_equal(pooled, pool(features))
    _, argmax = roi_pool_with_argmax(features, ROIS, (3, 2))
    image = ROIS[:, 0].astype(int)[:, None, None, None]
    flat = np.asarray(tangent).reshape(2, 63, 5)
    want = flat[image, np.maximum(argmax, 0), np.arange(5)]
    want = np.where(np.asarray(argmax) >= 0, want, 0)
    np.testing.assert_array_equal(derivative, want)

    linearized, linear = jax.linearize(f, features)
    np.testing.assert_array_equal(linearized, pooled)
    np.testing.assert_array_equal(linear(tangent), want)
    transpose = jax.linear_transpose(linear, features)
    np.testing.assert_array_equal(
        transpose(jnp.ones_like(pooled))[0],
        jax.grad(lambda x: pool(x).sum())(features),
    )
    jacobian = jax.jit(jax.jacfwd(f))(features)
    np.testing.assert_array_equal(jacobian, jax.jit(jax.jacrev(pool))(features))


def test_forward_mode_is_refused_without_the_flag():
    features = jnp.ones(SHAPE)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(pool, (features,), (features,))


def test_forward_mode_gives_the_same_numbers(implementation):
    features = jnp.asarray(few_values(*SHAPE))
    for function in (roi_pool, roi_pool_with_argmax):
        a = function(features, ROIS, 2)
        b = function(features, ROIS, 2, forward_mode=True)
        jax.tree.map(np.testing.assert_array_equal, a, b)

    def loss(x, mode):
        return (roi_pool(x, ROIS, 2, forward_mode=mode) ** 2).sum()

    np.testing.assert_array_equal(
        jax.grad(loss)(features, True), jax.grad(loss)(features, False)
    )


def test_gradient_through_pooled_beside_argmax(implementation):
    features = jnp.asarray(normal(*SHAPE))

    def loss(x):
        pooled, argmax = roi_pool_with_argmax(x, ROIS, (3, 2))
        return jnp.sum(pooled * (argmax % 3))

    _, argmax = roi_pool_with_argmax(features, ROIS, (3, 2))
    want = oracle.scatter(argmax % 3, ROIS, np.asarray(argmax), SHAPE)
    np.testing.assert_array_equal(jax.grad(loss)(features), want)


def shapes_in(tree):
    return [x.shape for x in jax.tree.leaves(tree) if hasattr(x, "shape")]


@pytest.mark.parametrize("forward_mode", [False, True])
@pytest.mark.parametrize("jitted", [False, True])
def test_residuals_hold_no_features(forward_mode, jitted):
    features = jnp.asarray(normal(*SHAPE))

    def f(x):
        return pool(x, forward_mode=forward_mode)

    _, vjp = jax.vjp(jax.jit(f) if jitted else f, features)
    kept = shapes_in(vjp)
    assert (6, 3, 2, 5) in kept  # the argmax
    assert all(np.prod(shape) <= 6 * 3 * 2 * 5 for shape in kept), kept
    assert SHAPE not in kept
    assert sum(np.prod(shape) > 6 for shape in kept) == 1, kept


def test_inference_has_one_call_with_one_result(kernels):
    features = jnp.ones(SHAPE)
    lowered = jax.jit(pool).lower(features)
    assert custom_calls(lowered.as_text()) == {"roi_pool": 1}
    compiled = [
        line
        for line in lowered.compile().as_text().splitlines()
        if 'custom_call_target="jax_roipool_roi_pool"' in line
    ]
    assert len(compiled) == 1
    result = compiled[0].split(" custom-call(")[0]
    assert "f32[6,3,2,5]" in result
    assert "s32" not in result
    assert "(" not in result  # no tuple: one output


def test_boxes_alone_need_no_argmax(kernels):
    features, rois = jnp.ones(SHAPE), jnp.asarray(ROIS)
    for forward_mode in (False, True):
        gradient = jax.grad(
            lambda r, m=forward_mode: pool(features, r, forward_mode=m).sum()
        )
        text = jax.jit(gradient).lower(rois).as_text()
        assert "roi_pool_argmax" not in text
        assert "roi_scatter" not in text
        np.testing.assert_array_equal(gradient(rois), np.zeros_like(rois))
