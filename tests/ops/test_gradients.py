"""Gradients: exact where they can be, of every order, and what they keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_roipool import backends
from tests import table
from tests.cases import (
    DTYPES,
    LAYOUTS,
    channels_last,
    custom_calls,
    dtype_of,
    in_layout,
    normal,
    random_rois,
    rng,
    smooth,
)
from tests.conftest import BACKEND, BEST, KERNELS, wide
from tests.ops.test_values import by_case

SHAPE = (2, 7, 9, 5)
ROIS = random_rois(6, 2, 7, 9, seed=2)


def loss(op, features, rois=ROIS, **kwargs):
    return (op(features, rois, (3, 2), **kwargs) ** 2).sum()


# --- Exactness -------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 2, 3))
def gradients(op, arrays, calls, layout):
    """Of several calls, in one program."""

    def gradient(features, cotangent, rois, valid, size, scale):
        def pool(features):
            return op(features, rois, size, scale, valid=valid, layout=layout)

        return jax.vjp(pool, features)[1](cotangent)[0]

    return [gradient(*some, *call) for some, call in zip(arrays, calls, strict=True)]


def check(op, cases, dtype, layout):
    """Integer cotangents, whose sums are exact in every dtype."""
    arrays, calls, wanted = [], [], []
    for case in cases:
        features = case.features_as(dtype)
        (result, *_), _ = table.case_answers(op, case, dtype)
        cotangent = rng(1).integers(-2, 3, result.shape).astype(features.dtype)
        wanted.append(
            op.wanted_gradient(
                cotangent, features, case.rois, case.size, case.scale, case.valid
            )
        )
        maps = [in_layout(x, layout) for x in (features, cotangent)]
        arrays.append((*maps, case.rois, case.valid))
        calls.append((case.size, case.scale))
    with wide(dtype):
        found = gradients(op, arrays, tuple(calls), layout)
    for got, (want, slack) in zip(found, wanted, strict=True):
        assert got.dtype == dtype_of(dtype)
        op.assert_near(channels_last(got, layout), want, slack)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@by_case
def test_gradient_of_integer_cotangents(implementation, op, case, dtype, layout):
    check(op, [case], dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_channels(kernel_implementation, op, dtype, layout):
    check(op, op.channel_cases, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_the_same_bits_every_time(kernels, op, dtype, layout):
    """Sums whose value depends on their order, over and over."""
    features = in_layout(normal(2, 19, 31, 96), layout).astype(dtype_of(dtype))
    rois = random_rois(300, 2, 19, 31, seed=3)
    gradient = jax.jit(
        jax.grad(
            lambda f: (op(f, rois, 7, layout=layout).astype(jnp.float32) ** 3).sum()
        )
    )
    first = np.asarray(gradient(features)).tobytes()
    for _ in range(20):
        assert np.asarray(gradient(features)).tobytes() == first


def test_instruction_sets_agree(kernels, op):
    """Bit for bit, where the op is exact."""
    features = normal(2, 19, 31, 50)
    rois = random_rois(100, 2, 19, 31, seed=3)
    gradient = jax.jit(jax.grad(lambda f: (op(f, rois, 7) ** 3).sum()))
    results = []
    for isa in KERNELS:
        BACKEND.use(isa)
        results.append(np.asarray(gradient(features)))
    BACKEND.use(kernels)
    for result in results[1:]:
        if op.exact:
            assert result.tobytes() == results[0].tobytes()
        op.assert_agrees(result, results[0])


# --- Every order -----------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reverse_mode_to_order_2(implementation, op, layout):
    features = jnp.asarray(in_layout(smooth(np.zeros((2, 5, 4, 3))), layout))

    @jax.jit
    def f(x):
        return op(x, ROIS, 2, layout=layout) ** 2

    check_grads(f, (features,), order=2, modes=["rev"], rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_mode_to_order_2(implementation, op, layout):
    features = jnp.asarray(in_layout(smooth(np.zeros((2, 5, 4, 3))), layout))

    @jax.jit
    def f(x):
        y, *others = op.results(x, ROIS, 2, layout=layout, **op.forward_mode)
        return y**2 + others[0] if others else y**2

    check_grads(f, (features,), order=2, modes=["fwd", "rev"], rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_mode_where_there_is_nothing(lowered_to, op, layout):
    """Found by tests/soak.py: plain JAX refused to lower it without images."""
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        features = jnp.ones(in_layout(np.empty(shape), layout).shape)
        for rois in (ROIS, ROIS[:0]):

            def f(x, rois=rois):
                return op(x, rois, 2, layout=layout, **op.forward_mode)

            pooled, derivative = jax.jvp(f, (features,), (features,))
            np.testing.assert_array_equal(pooled, np.zeros(pooled.shape))
            np.testing.assert_array_equal(derivative, pooled)


def test_forward_mode_equals_the_oracle(implementation, op):
    features, tangent = normal(*SHAPE), normal(*SHAPE, seed=1)

    def f(x):
        return op(x, ROIS, (3, 2), **op.forward_mode)

    pooled, derivative = jax.jvp(f, (features,), (tangent,))
    want, slack = op.wanted_derivative(tangent, features, ROIS, (3, 2))
    op.assert_near(derivative, want, slack)
    op.assert_agrees(pooled, op(features, ROIS, (3, 2)))


# --- What is kept, what is left out ----------------------------------------


def test_one_forward_and_one_backward_call(op):
    """Of ops without kernels too: what the table says of them is true."""
    if BEST == backends.PLAIN:
        pytest.skip(BACKEND.problem)
    features = jnp.ones(SHAPE)
    step = jax.jit(jax.value_and_grad(partial(loss, op)))
    assert custom_calls(step.lower(features).as_text()) == op.calls[1]
    forward = jax.jit(lambda f: op(f, ROIS, (3, 2)))
    assert custom_calls(forward.lower(features).as_text()) == op.calls[0]


def test_residuals_hold_no_features(kernels, op):
    features = jnp.ones((1, 64, 64, 8))
    pooled, pull = jax.vjp(lambda f: op(f, ROIS, 2), features)
    kept = sum(x.nbytes for x in jax.tree.leaves(pull))
    assert kept <= 2 * pooled.nbytes < features.nbytes / 10


def test_boxes_beside_features_get_zeros(implementation, op):
    features, rois = jnp.asarray(normal(*SHAPE)), jnp.asarray(ROIS)
    both = jax.grad(partial(loss, op), argnums=(0, 1))
    of_features, of_rois = both(features, rois)
    np.testing.assert_array_equal(of_rois, np.zeros_like(rois))
    op.assert_agrees(of_features, jax.grad(partial(loss, op))(features))
    integer_rois = rois.astype(jnp.int32)
    of_integers = jax.grad(lambda r: loss(op, features, r), allow_int=True)(
        integer_rois
    )
    assert of_integers.dtype == jax.dtypes.float0


def test_remat_computes_again(implementation, op):
    features = jnp.asarray(normal(*SHAPE))

    def loss(x, f):
        return (f(x, ROIS, 2) ** 2).sum()

    want = jax.grad(loss)(features, op)
    got = jax.jit(jax.grad(lambda x: loss(x, jax.checkpoint(op, static_argnums=2))))
    op.assert_agrees(got(features), want)
