"""The op inside JAX's control flow, and the ways of running a program."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import roi_pool
from tests.cases import few_values, random_rois

FEATURES = few_values(2, 6, 7, 5)
ROIS = random_rois(12, 2, 6, 7).reshape(3, 4, 5)


def pool(features, rois):
    return roi_pool(features, rois, 2)


def loss(features, rois):
    return (pool(features, rois) ** 2).sum()


def test_scan(lowered_to):
    def total(features):
        def step(carry, rois):
            return carry + loss(features, rois), pool(features, rois)

        return jax.lax.scan(step, 0.0, ROIS)

    (value, pooled), gradient = jax.value_and_grad(total, has_aux=True)(FEATURES)
    np.testing.assert_array_equal(pooled, [pool(FEATURES, r) for r in ROIS])
    assert value == sum(loss(FEATURES, r) for r in ROIS)
    want = sum(jax.grad(loss)(FEATURES, r) for r in ROIS)
    np.testing.assert_array_equal(gradient, want)


def test_cond_and_while_loop(lowered_to):
    def branch(features, flag):
        return jax.lax.cond(flag, loss, lambda f, r: f.sum(), features, ROIS[0])

    np.testing.assert_array_equal(
        jax.jit(jax.grad(branch))(FEATURES, True), jax.grad(loss)(FEATURES, ROIS[0])
    )
    np.testing.assert_array_equal(jax.jit(jax.grad(branch))(FEATURES, False), 1)

    def body(carry):
        i, total = carry
        return i + 1, total + pool(FEATURES, jnp.asarray(ROIS)[i]).sum()

    _, total = jax.lax.while_loop(lambda c: c[0] < 3, body, (0, 0.0))
    assert total == sum(pool(FEATURES, r).sum() for r in ROIS)


def test_compiled_ahead_of_time(lowered_to):
    compiled = jax.jit(jax.value_and_grad(loss)).lower(FEATURES, ROIS[0]).compile()
    value, gradient = compiled(FEATURES, ROIS[0])
    assert value == loss(FEATURES, ROIS[0])
    np.testing.assert_array_equal(gradient, jax.grad(loss)(FEATURES, ROIS[0]))


def test_donated_features(lowered_to):
    step = jax.jit(jax.grad(loss), donate_argnums=0)
    want = jax.grad(loss)(FEATURES, ROIS[0])
    np.testing.assert_array_equal(step(jnp.array(FEATURES), ROIS[0]), want)


def test_without_jit(lowered_to):
    want = jax.value_and_grad(loss)(FEATURES, ROIS[0])
    with jax.disable_jit():
        got = jax.value_and_grad(loss)(FEATURES, ROIS[0])
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_shapes_without_running():
    out = jax.eval_shape(pool, jax.ShapeDtypeStruct((2, 6, 7, 5), "bfloat16"), ROIS[0])
    assert (out.shape, out.dtype) == ((4, 2, 2, 5), jnp.bfloat16)
