"""Sizes at their extremes: right, or refused with a message; never a crash."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import lowering, roi_pool, roi_pool_with_argmax
from tests.cases import (
    LAYOUTS,
    assert_same,
    channels_last,
    few_values,
    in_layout,
    random_rois,
)
from tests.cuda import on_host
from tests.oracle import roi_pool as oracle
from tests.process import run_python

MOST_BINS = 2**24  # along an axis

# --- Sizes that no machine holds --------------------------------------------


def abstract(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


RESULT, OPERAND = "pooled of shape", "features of shape"
TOO_LARGE = {
    "pooled": ((1, 4, 4, 2**20), (2**20, 5), MOST_BINS, RESULT),
    "pooled, just": ((1, 4, 4, 2**3), (2**5, 5), MOST_BINS, RESULT),
    "no RoIs": ((1, 4, 4, 2**20), (0, 5), MOST_BINS, RESULT),
    "features": (
        (2**20, 2**15, 2**15, 2**30),
        (1, 5),
        1,
        OPERAND,
    ),
    "features, no RoIs": (
        (2, 2**15, 2**15, 2**25),
        (2, 0, 4),
        1,
        OPERAND,
    ),
}


@pytest.mark.parametrize(
    ("map_", "rois", "size", "words"), TOO_LARGE.values(), ids=TOO_LARGE
)
def test_products_that_overflow_are_refused(op, map_, rois, size, words):
    """XLA would end the process (INVALID_ARGUMENT: overflow in static extent)."""

    def pool(features, rois):
        return op(features, rois, size)

    operands = abstract(*map_), abstract(*rois)
    gradient = jax.grad(lambda *args: pool(*args).sum())
    for function in (pool, gradient, jax.vmap(pool, (0, None))):
        if function is not pool and function is not gradient:
            operands = abstract(3, *map_), operands[1]
        with pytest.raises(ValueError, match=rf"{words} \[.*2\*\*56 numbers or more"):
            jax.eval_shape(function, *operands)


def test_a_mapped_axis_counts(op):
    def pool(rois):
        return op(jnp.ones((1, 4, 4, 1)), rois, (2**24, 2**16))

    rois = abstract(2**12, 2**3, 5)
    assert jax.eval_shape(pool, abstract(2**3, 5)).shape[0] == 2**3
    with pytest.raises(ValueError, match=RESULT):
        jax.eval_shape(jax.vmap(pool), abstract(2**13, 2**3, 5))
    assert jax.eval_shape(jax.vmap(pool), rois).shape[0] == 2**12


def test_the_largest_that_is_not_refused_compiles(lowered_to, op):
    """Half of the limit, forward and backward: XLA's sizes do not overflow."""
    operands = abstract(1, 4, 4, 1), abstract(2**15, 5)

    def loss(features, rois):
        return op(features, rois, 2**20).sum()

    jax.jit(jax.grad(loss)).lower(*operands).compile()


# --- Out of memory ------------------------------------------------------------


def test_no_memory_for_the_result_is_an_error_of_jax(lowered_to, op):
    """2**44 numbers, 64 TiB; and the process goes on."""
    features, rois = jnp.ones((1, 4, 4, 1)), jnp.array([[0, 0, 0, 2.0, 2.0]])
    size = (MOST_BINS, 2**20)
    for function in (
        lambda: op(features, rois, size),
        lambda: op.results(features, rois, size),
        lambda: jax.grad(lambda f: op(f, rois, size).sum())(features),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            jax.block_until_ready(function())
    op.assert_agrees(op(features, rois, 1), np.ones((1, 1, 1, 1)))


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="no /proc")
def test_no_memory_for_the_kernels_own_is_an_error_of_jax(kernels):
    """The address space ends while a handler works: plans, tables, scratch.

    A limit a bit above what is in use, raised step by step until the call passes:
    every time an error of JAX or the right result.
    """
    code = """
        import resource, jax, jax.numpy as jnp, numpy as np
        from jax_roipool import roi_pool_with_argmax
        features = jnp.ones((1, 64, 64, 512))
        rois = jnp.asarray(np.tile(np.float32([0, 0, 0, 60, 60]), (20000, 1)))
        pool = jax.jit(lambda f, r: [
            x.ravel()[0] for x in roi_pool_with_argmax(f, r, 1)])
        program = pool.lower(features, rois).compile()
        small = jax.jit(lambda x: x + 1).lower(rois).compile()
        page = resource.getpagesize()
        used = int(open("/proc/self/statm").read().split()[0]) * page
        refused = passed = 0
        for more in range(0, 400 << 20, 10 << 20):
            resource.setrlimit(resource.RLIMIT_AS, (used + more, -1))
            try:
                pooled, argmax = jax.block_until_ready(program(features, rois))
                assert (float(pooled), int(argmax)) == (1, 0)
                passed += 1
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                refused += 1
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            if passed == 2:
                break
        print("refused", refused > 0, "passed", passed)
    """
    done = run_python(code)
    assert done.stdout.split() == ["refused", "True", "passed", "2"], done.stderr


# --- Extremes that fit ----------------------------------------------------------


def check(op, features, rois, size, layout, times=1):
    """The RoIs so many times over, which the oracle answers once."""
    (result, *others), slack = op.wanted(features, rois, size)
    repeated = np.tile(rois, (times, 1))
    got = op.results(in_layout(features, layout), repeated, size, layout=layout)
    repeat = (times, *[1] * (result.ndim - 1))
    op.assert_near(
        channels_last(got[0], layout),
        np.tile(result, repeat),
        None if slack is None else np.tile(slack, repeat),
    )
    for x, want in zip(got[1:], others, strict=True):
        assert_same(channels_last(x, layout), np.tile(want, repeat))
    gradient = jax.grad(lambda f: op(f, repeated, size, layout=layout).sum())
    got = gradient(jnp.asarray(in_layout(features, layout)))
    want, slack = op.wanted_gradient(np.ones_like(result), features, rois, size)
    slack = None if slack is None else times * slack
    op.assert_near(channels_last(got, layout), times * want, slack)


def many(implementation, count):
    """Fewer where each is a block of threads, run on the host."""
    return count // 50 if implementation == on_host.NAME else count


@pytest.mark.plain_jax_in_ci(layout=())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_channels(implementation, op, layout):
    features = few_values(1, 2, 3, many(implementation, 70_001))
    check(op, features, random_rois(2, 1, 2, 3), (1, 2), layout)


@pytest.mark.plain_jax_in_ci(layout=())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_rois(implementation, op, layout):
    features, roi = few_values(1, 3, 4, 2), np.float32([[0, 1, 0, 3, 2]])
    check(op, features, roi, (1, 2), layout, many(implementation, 100_000))


@pytest.mark.parametrize("size", [(MOST_BINS, 1), (1, MOST_BINS), (4096, 1024)])
def test_many_bins(kernels, size):
    """As many as may be; cells in rising order tell which bin has which."""
    features = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    rois = np.float32([[0, 0, 0, 2, 1]])
    pooled, argmax = roi_pool_with_argmax(features, rois, size)
    assert_same(pooled, argmax)
    rows = oracle_bins(2, size[0])
    columns = oracle_bins(3, size[1])
    want = rows[:, None] * 3 + columns
    assert_same(pooled[0, :, :, 0], want)


def oracle_bins(extent, count):
    """The last cell of each of `count` bins over all of an axis, in float32."""
    size = np.float32(extent) / np.float32(count)
    ends = np.ceil(np.arange(1, count + 1, dtype=np.float32) * size)
    return np.minimum(ends, extent).astype(int) - 1


# --- Maps of more than 2**31 numbers ---------------------------------------------


def free_bytes():
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.nightly
@pytest.mark.parametrize("layout", LAYOUTS)
def test_offsets_beyond_31_bits(kernel_implementation, layout):
    """A map of 2**31 + 2**26 float16, read and differentiated at its very end."""
    images, height, width, channels = 33, 1024, 1024, 64
    if free_bytes() < 12 << 30:
        pytest.skip("needs 12 GiB of free memory")
    shape = (images, height, width, channels)
    assert np.prod(shape) == 2**31 + 2**26
    features = np.zeros(in_shape(shape, layout), np.float16)
    last = channels_last(features, layout)  # a view
    last[32, 1022, 1021] = np.arange(1, channels + 1)
    last[0, 3, 4] = 7
    rois = np.float32([[32, 1020, 1020, 1023, 1023], [0, 0, 0, 8, 8]])
    pooled, argmax = oracle.roi_pool(last, rois, (1, 1), (1.0, 1.0))
    held = jnp.asarray(features)
    del features, last
    got = roi_pool_with_argmax(held, rois, 1, layout=layout)
    assert_same(channels_last(got[0], layout), pooled)
    assert_same(channels_last(got[1], layout), argmax)
    del held
    ops = lowering.ops()
    cotangent = np.asarray(got[0])
    gradient = ops["roi_scatter"].bind(
        jnp.asarray(cotangent),
        jnp.asarray(rois[:, 0], jnp.int32),
        got[1],
        group_ndim=0,
        map_size=(images, height, width),
        layout=layout,
    )
    gathered = ops["roi_gather"].bind(
        gradient, jnp.asarray(rois[:, 0], jnp.int32), got[1], layout=layout
    )
    assert_same(gathered, cotangent)
    gradient = channels_last(gradient, layout)
    assert_same(gradient[32, 1022, 1021], np.arange(1, channels + 1))
    assert_same(gradient[0, 3, 4], np.full(channels, 7))
    assert np.count_nonzero(gradient) == 2 * channels


@pytest.mark.nightly
def test_more_than_31_bits_of_pooled_numbers(kernel_implementation):
    """2**31 + 2**20 pooled float16: the last RoI is where it belongs."""
    if free_bytes() < 9 << 30:
        pytest.skip("needs 9 GiB of free memory")
    count, channels = 2**11 + 1, 2**20
    features = np.broadcast_to(np.float16([[[1]], [[2]]]), (2, 1, channels))
    boxes = np.zeros((count, 4), np.float32)
    boxes[-1, [1, 3]] = 1  # row 1
    pooled = np.asarray(roi_pool(features, boxes, 1))
    assert pooled.size == 2**31 + 2**20
    assert (pooled[-1] == 2).all()
    assert (pooled[-2] == 1).all()
    assert (pooled[0] == 1).all()


def in_shape(shape, layout):
    *front, height, width, channels = shape
    if layout == "NCHW":
        return (*front, channels, height, width)
    return shape
