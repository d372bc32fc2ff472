"""Gradients: exact where they can be, of every order, and what they keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_roipool import roi_pool, roi_pool_with_argmax
from tests import cuda_on_host, oracle
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
    rng,
)
from tests.conftest import wide

SHAPE = (2, 7, 9, 5)
ROIS = random_rois(6, 2, 7, 9, seed=2)


def pool(features, rois=ROIS, **kwargs):
    return roi_pool(features, rois, (3, 2), **kwargs)


# --- Exactness -------------------------------------------------------------


@partial(jax.jit, static_argnums=(3, 4, 6))
def gradient(features, cotangent, rois, size, scale, valid, layout):
    """Compiled once for all instruction sets."""

    def pool(features):
        return roi_pool(features, rois, size, scale, valid=valid, layout=layout)

    return jax.vjp(pool, features)[1](cotangent)[0]


def check_scatter(case, dtype, layout):
    """Integer cotangents, whose sums are exact in every dtype."""
    features = case.features_as(dtype)
    pooled, argmax = oracle.roi_pool(
        features, case.rois, case.size, case.scale, case.valid
    )
    cotangent = rng(1).integers(-2, 3, pooled.shape).astype(features.dtype)
    want = oracle.scatter(cotangent, case.rois, argmax, features.shape, case.valid)

    with wide(dtype):
        got = gradient(
            in_layout(features, layout),
            in_layout(cotangent, layout),
            case.rois,
            case.size,
            case.scale,
            case.valid,
            layout,
        )
    assert got.dtype == features.dtype
    assert_same(channels_last(got, layout), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_of_integer_cotangents(implementation, case, dtype, layout):
    check_scatter(case, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CHANNEL_CASES, ids=str)
def test_gradient_channels(kernel_implementation, case, dtype, layout):
    check_scatter(case, dtype, layout)


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
    every = 67 if implementation == cuda_on_host.NAME else 7
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_the_same_bits_every_time(kernels, dtype, layout):
    """Sums whose value depends on their order, over and over."""
    features = in_layout(normal(2, 19, 31, 96), layout).astype(dtype_of(dtype))
    rois = random_rois(300, 2, 19, 31, seed=3)
    gradient = jax.jit(
        jax.grad(
            lambda f: (
                roi_pool(f, rois, 7, layout=layout).astype(jnp.float32) ** 3
            ).sum()
        )
    )
    first = np.asarray(gradient(features)).tobytes()
    for _ in range(20):
        assert np.asarray(gradient(features)).tobytes() == first


def test_targets_agree_bit_for_bit(kernels):
    from jax_roipool import backends

    features = normal(2, 19, 31, 50)
    rois = random_rois(100, 2, 19, 31, seed=3)
    gradient = jax.grad(lambda f: (roi_pool(f, rois, 7) ** 3).sum())
    results = []
    for target in backends.CPU.choices()[:-1]:
        backends.CPU.use(target)
        results.append(np.asarray(gradient(features)).tobytes())
    assert len(set(results)) == 1


# --- Every order -----------------------------------------------------------


def smooth(features):
    """Values far apart, so that finite differences change no maximum."""
    shape = features.shape
    return jnp.asarray(
        rng(3).permutation(features.size).reshape(shape) * 0.1, jnp.float32
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reverse_mode_to_order_2(implementation, layout):
    features = smooth(np.zeros((2, 5, 4, 3)))
    features = jnp.asarray(in_layout(features, layout))

    def f(x):
        return roi_pool(x, ROIS, 2, layout=layout) ** 2

    check_grads(f, (features,), order=2, modes=["rev"], rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_mode_to_order_2(implementation, layout):
    features = smooth(np.zeros((2, 5, 4, 3)))
    features = jnp.asarray(in_layout(features, layout))

    def f(x):
        y = roi_pool(x, ROIS, 2, layout=layout, forward_mode=True)
        z, _ = roi_pool_with_argmax(x, ROIS, 2, layout=layout, forward_mode=True)
        return y**2 + z

    check_grads(f, (features,), order=2, modes=["fwd", "rev"], rtol=2e-2, eps=1e-2)


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

    want = jax.hessian(loss_of_plain_jax)(features)
    vector = jnp.ones_like(features)
    for got in (
        jax.hessian(loss)(features),  # forward over reverse
        jax.jacrev(jax.grad(loss))(features),  # reverse over reverse
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    hvp = jax.jvp(jax.grad(loss), (features,), (vector,))[1]
    np.testing.assert_allclose(hvp, jnp.tensordot(want, vector, axes=4), rtol=1e-6)
    grad3 = jax.grad(lambda x: jax.grad(lambda x: jax.grad(loss)(x).sum())(x).sum())
    want3 = jax.grad(
        lambda x: jax.grad(lambda x: jax.grad(loss_of_plain_jax)(x).sum())(x).sum()
    )
    np.testing.assert_allclose(grad3(features), want3(features), rtol=1e-6)


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
    jacobian = jax.jacfwd(f)(features)
    np.testing.assert_array_equal(jacobian, jax.jacrev(pool)(features))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_mode_where_there_is_nothing(lowered_to, layout):
    """Found by tests/soak.py: plain JAX refused to lower it without images."""
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        features = jnp.ones(in_layout(np.empty(shape), layout).shape)
        for rois in (ROIS, ROIS[:0]):

            def f(x, rois=rois):
                return roi_pool(x, rois, 2, layout=layout, forward_mode=True)

            pooled, derivative = jax.jvp(f, (features,), (features,))
            np.testing.assert_array_equal(pooled, np.zeros(pooled.shape))
            np.testing.assert_array_equal(derivative, pooled)


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


# --- What is kept, what is left out ----------------------------------------


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


def calls(text):
    """How often each of our targets is called in a program's text."""
    names = ("roi_pool", "roi_pool_argmax", "roi_gather", "roi_scatter")
    found = {name: text.count(f"@jax_roipool_{name}(") for name in names}
    return {name: count for name, count in found.items() if count}


def test_inference_has_one_call_with_one_result(kernels):
    features = jnp.ones(SHAPE)
    lowered = jax.jit(pool).lower(features)
    assert calls(lowered.as_text()) == {"roi_pool": 1}
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


def test_one_forward_and_one_backward_call(kernels):
    features = jnp.ones(SHAPE)
    step = jax.jit(jax.value_and_grad(lambda x: (pool(x) ** 2).sum()))
    text = step.lower(features).as_text()
    assert calls(text) == {"roi_pool_argmax": 1, "roi_scatter": 1}


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


def test_boxes_beside_features_get_zeros(implementation):
    features, rois = jnp.asarray(normal(*SHAPE)), jnp.asarray(ROIS)
    both = jax.grad(lambda f, r: (pool(f, r) ** 2).sum(), argnums=(0, 1))
    of_features, of_rois = both(features, rois)
    np.testing.assert_array_equal(of_rois, np.zeros_like(rois))
    np.testing.assert_array_equal(
        of_features, jax.grad(lambda f: (pool(f) ** 2).sum())(features)
    )
    integer_rois = rois.astype(jnp.int32)
    of_integers = jax.grad(lambda r: pool(features, r).sum(), allow_int=True)(
        integer_rois
    )
    assert of_integers.dtype == jax.dtypes.float0


def test_remat_computes_again(implementation):
    features = jnp.asarray(normal(*SHAPE))

    def loss(x, f):
        return (f(x) ** 2).sum()

    want = jax.grad(loss)(features, pool)
    got = jax.jit(jax.grad(lambda x: loss(x, jax.checkpoint(pool))))(features)
    np.testing.assert_array_equal(got, want)
