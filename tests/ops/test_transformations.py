"""The op inside JAX's control flow, and the ways of running a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jax_roipool import roi_pool
from tests.cases import few_values, random_rois
from tests.process import run_python

FEATURES = few_values(2, 6, 7, 5)
ROIS = random_rois(12, 2, 6, 7).reshape(3, 4, 5)


@jax.jit
def pool(features, rois):
    return roi_pool(features, rois, 2)


@jax.jit
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


# --- What is kept for the backward pass ----------------------------------------


@pytest.mark.parametrize("forward_mode", [False, True])
def test_remat_policies(kernels, forward_mode):
    """With pooled values and argmax kept the backward pass pools nothing."""

    def loss(features):
        pooled = roi_pool(features * 2, ROIS[0], 2, forward_mode=forward_mode)
        return (checkpoint_name(pooled, "pooled") ** 2).sum()

    keep = jax.checkpoint_policies.save_only_these_names
    want = jax.value_and_grad(loss)(FEATURES)
    for policy, poolings in (
        (keep("roi_pool_argmax"), 1),
        (keep("pooled"), 2),
        (jax.checkpoint_policies.nothing_saveable, 2),
    ):
        step = jax.jit(jax.value_and_grad(jax.checkpoint(loss, policy=policy)))
        text = step.lower(FEATURES).as_text()
        assert text.count("custom_call @jax_roipool_roi_pool") == poolings
        assert text.count("custom_call @jax_roipool_roi_scatter") == 1
        jax.tree.map(np.testing.assert_array_equal, step(FEATURES), want)


def test_residuals_hold_no_features(kernels):
    features = jnp.ones((1, 64, 64, 8))
    _, pull = jax.vjp(lambda f: roi_pool(f, ROIS[0], 2), features)
    kept = sum(x.nbytes for x in jax.tree.leaves(pull))
    assert kept <= 2 * 4 * len(ROIS[0]) * 2 * 2 * 8 < features.nbytes / 10


# --- Other people's rules around ours ------------------------------------------


def test_inside_custom_vjp_and_custom_jvp(lowered_to):
    @jax.custom_vjp
    def clipped(features):
        return loss(features, ROIS[0])

    def forward(features):
        value, pull = jax.vjp(lambda f: loss(f, ROIS[0]), features)
        return value, pull

    clipped.defvjp(forward, lambda pull, g: (jnp.clip(pull(g)[0], -1, 1),))
    want = jax.grad(loss)(FEATURES, ROIS[0])
    np.testing.assert_array_equal(jax.grad(clipped)(FEATURES), np.clip(want, -1, 1))

    @jax.custom_jvp
    def scaled(features):
        return roi_pool(features, ROIS[0], 2, forward_mode=True)

    @scaled.defjvp
    def rule(primals, tangents):
        pool = lambda f: roi_pool(f, ROIS[0], 2, forward_mode=True)  # noqa: E731
        pooled, tangent = jax.jvp(pool, primals, tangents)
        return pooled, 3 * tangent

    pooled, tangent = jax.jvp(scaled, (FEATURES,), (FEATURES,))
    np.testing.assert_array_equal(tangent, 3 * pooled)
    total = jax.grad(lambda f: scaled(f).sum())(FEATURES)
    plain = jax.grad(lambda f: pool(f, ROIS[0]).sum())(FEATURES)
    np.testing.assert_array_equal(total, 3 * plain)


# --- Ways of checking a program ------------------------------------------------


def test_checkify(lowered_to):
    from jax.experimental import checkify

    def checked(features):
        pooled = pool(features, ROIS[0])
        checkify.check((pooled < 9).all(), "large")
        return pooled

    run = jax.jit(checkify.checkify(checked, checkify.all_checks))
    error, pooled = run(FEATURES)
    assert error.get() is None
    np.testing.assert_array_equal(pooled, pool(FEATURES, ROIS[0]))
    error, _ = run(FEATURES + 100)
    assert "large" in error.get()


def test_debug_nans(lowered_to):
    rois = np.float32([[0, 0, 0, 6, 5]])
    with jax.debug_nans(True):
        jax.grad(loss)(FEATURES, ROIS[0])
        with pytest.raises(FloatingPointError):
            pool(FEATURES + np.nan, rois).block_until_ready()


def test_enable_x64(lowered_to):
    """Argmax stays int32, float32 stays float32, float64 is there."""
    from jax_roipool import roi_pool_with_argmax

    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            pooled, argmax = roi_pool_with_argmax(FEATURES.astype(dtype), ROIS[0], 2)
            assert (pooled.dtype, argmax.dtype) == (dtype, jnp.int32)
            gradient = jax.grad(loss)(jnp.asarray(FEATURES, dtype), ROIS[0])
            assert gradient.dtype == dtype
            np.testing.assert_array_equal(gradient, jax.grad(loss)(FEATURES, ROIS[0]))


# --- Compiling -----------------------------------------------------------------


def test_pmap(lowered_to):
    features, rois = FEATURES[None], ROIS[:1]
    got = jax.pmap(jax.grad(loss))(features, rois)
    np.testing.assert_array_equal(got[0], jax.grad(loss)(FEATURES, ROIS[0]))


def test_programs_do_not_grow_with_the_number_of_rois(lowered_to):
    def lines(count):
        rois = jax.ShapeDtypeStruct((count, 5), jnp.float32)
        program = jax.jit(jax.value_and_grad(loss)).lower(FEATURES, rois)
        return len(program.compile().as_text().splitlines())

    assert abs(lines(7) - lines(7000)) < 0.05 * lines(7)


CACHED = """
    import sys, jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from jax_roipool import roi_pool
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event.endswith("/cache_hits")))
    rois = np.tile(np.float32([0, 0, 0, 3, 3]), (8, 1))
    features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("d",))
        jax.set_mesh(mesh)
        rois = jax.device_put(rois, NamedSharding(mesh, P("d")))
    print(float(jax.grad(lambda f: roi_pool(f, rois, 1).sum())(features).max()))
    hits.clear()
    step = jax.jit(jax.grad(lambda f, r: (roi_pool(f, r, 1) ** 2).sum()))
    step(features, rois)
    print(sum(hits))
"""


@pytest.mark.parametrize(
    ("devices", "flag", "hit"), [(1, False, True), (4, False, False), (4, True, True)]
)
def test_persistent_compilation_cache(kernels, tmp_path, devices, flag, hit):
    """On several devices it needs a flag of JAX's."""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_REMOVE_CUSTOM_PARTITIONING_PTR_FROM_CACHE_KEY": str(flag),
    }
    for expected in (False, hit):
        done = run_python(CACHED, **environment)
        assert done.returncode == 0, done.stderr
        value, hits = done.stdout.split()
        assert value == "8.0"
        assert (int(hits) > 0) == expected
