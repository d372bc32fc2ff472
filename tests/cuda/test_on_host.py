"""What only the CUDA kernels can get wrong, tried on the host."""

import re
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import lowering, roi_pool
from tests import compiled, table
from tests.cases import (
    LAYOUTS,
    NAN,
    assert_same,
    channels_last,
    in_layout,
    random_rois,
    rng,
)
from tests.cuda import on_host
from tests.oracle import roi_pool as oracle

DEVICES = 3  # that tests/cuda/on_host/cuda/device.h takes in turn


pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="there is a GPU to try them on"
)


@pytest.fixture
def host():
    with on_host.use() as library:
        yield library


def on_every_device(run, *operands):
    """The results of as many calls as there are devices, all the same bits."""
    results = [jax.tree.map(np.asarray, run(*operands)) for _ in range(DEVICES)]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], result)
    return results[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "size"),
    [
        (1, (1, 1)),
        (3, (7, 7)),
        (17, (2, 9)),
        (64, (3, 3)),
        (132, (1, 2)),
        (8, (20, 17)),
    ],
)
def test_every_cut(host, channels, size, layout):
    """Few and many channels and bins; boxes from one cell to all of the map."""
    features = rng(channels).integers(-3, 4, (2, 30, 41, channels)).astype(np.float32)
    features[0, 10:, :, channels // 2] = NAN
    rois = random_rois(12, 2, 30, 41, seed=channels)
    rois[:3, 1:] = [[0, 0, 40, 29], [-50, -50, 90, 90], [7, 7, 7, 7]]
    want = oracle.roi_pool(features, rois, size, (1, 1))
    bind = lowering.ops()["roi_pool_argmax"].bind
    run = jax.jit(
        partial(bind, output_size=size, spatial_scale=(1.0, 1.0), layout=layout)
    )
    operands = (
        jnp.asarray(in_layout(features, layout)),
        jnp.asarray(rois[:, 1:]),
        jnp.asarray(rois[:, 0], jnp.int32),
    )
    for got, expected in zip(on_every_device(run, *operands), want, strict=True):
        assert_same(channels_last(got, layout), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("height", "dtype"),
    [(5, "float32"), (5, "bfloat16"), (20, "float32")],
    ids=["crowded", "crowded halves", "several tiles"],
)
def test_gradients_have_the_bits_of_the_cpu(height, dtype, layout):
    """More RoIs than a block lists at once; any order, any cut of a plane."""
    width, channels = height + 11, 11
    features = rng(0).standard_normal((2, height, width, channels)).astype(np.float32)
    rois = random_rois(300, 2, height, width)
    cotangent = rng(1).standard_normal((300, 2, 2, channels))
    cotangent *= 10.0 ** rng(2).integers(-6, 7, cotangent.shape)
    cotangent = jnp.asarray(in_layout(cotangent, layout), dtype)
    features = jnp.asarray(in_layout(features, layout), dtype)

    @jax.jit
    def gradient(features):
        pull = jax.vjp(lambda f: roi_pool(f, rois, 2, layout=layout), features)[1]
        return pull(cotangent)[0]

    want = np.asarray(gradient(features))
    with on_host.use() as host:
        for seed in (0, 100) if height < 10 else (0,):
            host.seed(seed)
            np.testing.assert_array_equal(on_every_device(gradient, features), want)


def test_infinite_and_nan_cotangents_stay_where_they_are(host):
    features = jnp.asarray(rng(0).permutation(6 * 7).reshape(1, 6, 7, 1), jnp.float32)
    rois = np.float32([[0, 0, 0, 2, 2], [0, 3, 0, 5, 2], [0, 3, 0, 5, 2]])
    pull = jax.vjp(lambda f: roi_pool(f, rois, 1), features)[1]
    cotangent = jnp.asarray([np.nan, np.inf, 1.0]).reshape(3, 1, 1, 1)
    (gradient,) = on_every_device(jax.jit(pull), cotangent)
    assert np.isnan(gradient).sum() == 1
    assert np.isposinf(gradient).sum() == 1
    assert (gradient == 0).sum() == 6 * 7 - 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pyramids_have_the_bits_of_the_cpu(layout):
    """A level of several tiles, one without RoIs, one without cells."""
    sizes = ((40, 52), (20, 26), (0, 13), (5, 7), (3, 4))
    maps = [
        jnp.asarray(
            in_layout(rng(i).standard_normal((2, *size, 12)), layout), "float32"
        )
        for i, size in enumerate(sizes)
    ]
    rois = random_rois(90, 2, 40, 52)
    levels = np.arange(90) % 7 % 4 - (np.arange(90) == 11)
    cotangent = rng(9).standard_normal((90, 3, 2, 12))
    cotangent = jnp.asarray(in_layout(cotangent, layout), "float32")
    scales = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]

    @jax.jit
    def run(maps):
        pool = partial(roi_pool, layout=layout, levels=levels)
        pooled, pull = jax.vjp(lambda m: pool(m, rois, (3, 2), scales), maps)
        return pooled, pull(cotangent)[0]

    want = jax.tree.map(np.asarray, run(maps))
    with on_host.use():
        got = on_every_device(run, maps)
    jax.tree.map(np.testing.assert_array_equal, got, want)


# --- Bands --------------------------------------------------------------------


def _vjp_of(row, rois, size, layout):
    """Jitted: features and cotangent to pooled and gradient."""

    @jax.jit
    def run(features, cotangent):
        pooled, pull = jax.vjp(lambda f: row(f, rois, size, layout=layout), features)
        return pooled, pull(cotangent)[0]

    return run


def _bands_are_right(row, shape, size, layout):
    """Few RoIs, from one cell to all of the map, against the oracle."""
    images, height, width, channels = shape
    features = rng(channels).standard_normal(shape).astype(np.float32)
    rois = random_rois(9, images, height, width, seed=channels)
    edge = [0, 0, width - 1, height - 1], [-50, -50, 90, 90], [7, 7, 7.5, 7.5]
    rois[: len(edge), 1:] = edge
    cotangent = rng(1).standard_normal((9, *size, channels)).astype(np.float32)
    (want, *_), slack = row.wanted(features, rois, size)
    want_gradient = row.wanted_gradient(cotangent, features, rois, size)
    operands = (in_layout(x, layout) for x in (features, cotangent))
    pooled, gradient = on_every_device(_vjp_of(row, rois, size, layout), *operands)
    row.assert_near(channels_last(pooled, layout), want, slack)
    row.assert_near(channels_last(gradient, layout), *want_gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("row", "channels", "size"),
    [
        (table.ROI_AVERAGE_POOL, 1, (1, 1)),
        (table.ROI_ALIGN, 3, (2, 40)),
        (table.ROI_ALIGN_TORCHVISION, 132, (1, 2)),
        (table.ROI_ALIGN, 17, (3, 3)),
    ],
    ids=["a bin", "many columns", "many channels", "odd channels"],
)
def test_every_cut_of_bands(host, row, channels, size, layout):
    _bands_are_right(row, (2, 30, 41, channels), size, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_by_bands_have_the_same_bits(layout):
    """More RoIs than a block asks at once, most of them empty; any order."""
    rois = random_rois(1100, 2, 5, 16)
    rois[np.arange(1100) % 4 > 0, 0] = -1
    features = jnp.zeros((2, 5, 16, 3) if layout == "NHWC" else (2, 3, 5, 16))
    cotangent = rng(1).standard_normal((1100, 2, 2, 3))
    cotangent *= 10.0 ** rng(2).integers(-6, 7, cotangent.shape)
    cotangent = jnp.asarray(in_layout(cotangent, layout), "float32")
    run = _vjp_of(table.ROI_ALIGN, rois, (2, 2), layout)
    want = np.asarray(run(features, cotangent)[1])
    size = np.asarray(run(features, abs(cotangent))[1])
    with on_host.use():
        _, got = on_every_device(run, features, cotangent)
    assert (abs(got - want) <= 2 * table.TOLERANCE * size).all()


def test_a_workspace_that_is_too_small(host):
    def call(*results):
        results = [jax.ShapeDtypeStruct(*result) for result in results]
        scales = {f"scale_{x}": np.float32(1) for x in ("height", "width")}
        run = jax.ffi.ffi_call(f"{on_host.NAME}.roi_average_pool", results)
        return run(
            np.ones((1, 5, 6, 3), np.float32),
            np.ones((4, 4), np.float32),
            np.zeros(4, np.int32),
            layout="NHWC",
            **scales,
        )

    pooled = (4, 2, 2, 3), np.float32
    assert (np.asarray(call(pooled, ((4, 200), np.int32))[0]) == 1).any()
    for workspace, wrong in [
        (((4, 20), np.int32), r"the workspace needs \d+ bytes"),
        (((4, 200), np.float32), "the workspace must be int32"),
    ]:
        with pytest.raises(jax.errors.JaxRuntimeError, match=wrong):
            call(pooled, workspace)
    with pytest.raises(jax.errors.JaxRuntimeError, match="wrong number of results"):
        call(pooled)


# --- That this would notice ---------------------------------------------------


MUTATIONS = {
    "the last of equals": (
        "core/compare.h",
        "Not(number <= best)",
        "Not(number < best)",
    ),
    "no NaN": (
        "core/compare.h",
        "Not(number <= best) & (best == best)",
        "number > best",
    ),
    "a batch's warp does not wait": (
        "ops/argmax/cuda_scatter.cu",
        "= sum;\n      __syncwarp();",
        "= sum;",
    ),
    "a block's groups do not wait": (
        "ops/max/cuda_channels_last.h",
        "best[v];\n    __syncthreads();",
        "best[v];",
    ),
    "a row of bins does not wait": (
        "ops/bands/cuda_apply.cu",
        "= numbers[k];\n          }\n          __syncwarp();",
        "= numbers[k];\n          }",
    ),
    "a bin's parts do not wait": (
        "ops/bands/cuda_apply.cu",
        "= sums[v];\n  __syncthreads();",
        "= sums[v];",
    ),
    "a warp's columns do not wait": (
        "ops/max/cuda_channels_first.h",
        "__syncwarp();\n      JAX",
        "JAX",
    ),
}


# The others take their turn nightly.
IN_CI = ("the last of equals", "a batch's warp does not wait")


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(name, marks=() if name in IN_CI else pytest.mark.nightly)
        for name in MUTATIONS
    ],
)
def test_a_wrong_kernel_is_noticed(mutation, tmp_path):
    name, right, wrong = MUTATIONS[mutation]
    csrc = tmp_path / "csrc"
    shutil.copytree(compiled.CSRC, csrc)
    source = csrc / name
    text = source.read_text()
    assert right in text
    source.write_text(text.replace(right, wrong))
    on_host.build(tmp_path / "wrong.so", csrc)
    prefix = re.sub(r"\W", "_", mutation)
    library = on_host.Library(tmp_path / "wrong.so", prefix)
    with (
        on_host.use(library),
        pytest.raises((AssertionError, jax.errors.JaxRuntimeError)),
    ):
        _everything_small()


def _everything_small():
    features = rng(0).integers(-3, 4, (2, 40, 41, 20)).astype(np.float32)
    features[0, 20:] = NAN
    rois = random_rois(40, 2, 40, 41)
    pooled, argmax = oracle.roi_pool(features, rois, (2, 2), (1, 1))
    cotangent = rng(1).integers(-4, 5, pooled.shape).astype(np.float32)
    want = oracle.scatter(cotangent, rois, argmax, features.shape)
    for layout in LAYOUTS:
        run = _vjp_of(table.ROI_POOL, rois, 2, layout)
        laid_out = partial(in_layout, layout=layout)
        got = on_every_device(run, laid_out(features), laid_out(cotangent))
        assert_same(channels_last(got[0], layout), pooled)
        assert_same(channels_last(got[1], layout), want)
    # Sums that are not exact, of many numbers each.
    rois = random_rois(300, 1, 5, 6)
    run = _vjp_of(table.ROI_POOL, rois, 2, "NHWC")
    inexact = rng(2).standard_normal((300, 2, 2, 8)).astype(np.float32)
    on_every_device(run, rng(3).random((1, 5, 6, 8), np.float32), inexact)
    for layout in LAYOUTS:
        _bands_are_right(table.ROI_ALIGN, (2, 40, 41, 20), (2, 2), layout)


def test_the_right_kernels_pass_that(host):
    _everything_small()


def test_kernels_do_not_know_the_host():
    shared = (compiled.CSRC / "cuda").iterdir()
    for path in (*shared, *compiled.CSRC.glob("ops/*/cuda*")):
        if path.name not in ("device.h", "stream.h", "module.cc"):
            lines = path.read_text().splitlines()
            directives = [line for line in lines if line.startswith("#")]
            guard = path.name.endswith(".h")
            known = ("#include", "#ifndef JAX_ROIPOOL", "#define JAX_ROIPOOL", "#endif")
            assert all(line.startswith(known) for line in directives), path
            assert sum(not d.startswith("#include") for d in directives) == 3 * guard
