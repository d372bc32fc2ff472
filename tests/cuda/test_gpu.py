"""What only a GPU can show; skipped where there is none.

The op's whole suite runs on a GPU too (`make test-cuda`); here are the kernels
beside the CPU's, beside other work on the chip, and inside CUDA graphs.
"""

import pathlib
import re

import jax
import numpy as np
import pytest

from jax_roipool import roi_pool, roi_pool_with_argmax
from tests.cases import (
    CASES,
    DTYPES,
    LAYOUTS,
    Case,
    assert_same,
    in_layout,
    normal,
    random_rois,
    rng,
)
from tests.conftest import wide
from tests.cuda.gpus import Busy, need_cuda
from tests.process import run_python

# Beside the op's own cases: enough to fill a chip, and a map of several tiles.
LARGE = [
    Case(
        "a detector's",
        normal(2, 38, 63, 96),
        random_rois(200, 2, 38, 63, 1 / 16),
        (7, 7),
        (1 / 16, 1 / 16),
    ),
    Case(
        "a large map",
        normal(2, 200, 336, 24),
        random_rois(300, 2, 200, 336, 1 / 4),
        (7, 7),
        (1 / 4, 1 / 4),
    ),
]


# The others are put to the GPU by the op's own tests.
HOSTILE = [x for x in CASES if x.name in ("NaN and infinities", "hostile numbers")]


@pytest.fixture
def gpu():
    return need_cuda()


def program(case, layout):
    """Features and cotangent to pooled, argmax and gradient."""

    def call(op, features):
        return op(
            features,
            case.rois,
            case.size,
            case.scale,
            valid=case.valid,
            layout=layout,
        )

    def run(features, cotangent):
        pooled, pull = jax.vjp(lambda f: call(roi_pool, f), features)
        argmax = call(roi_pool_with_argmax, features)[1]
        return call(roi_pool, features), pooled, argmax, pull(cotangent)[0]

    return jax.jit(run)


def cotangent_of(case, dtype, integers):
    shape = (len(case.rois), *case.size, case.features.shape[-1])
    if integers:
        return rng(1).integers(-4, 5, shape).astype(np.float32).astype(dtype)
    return rng(1).standard_normal(shape).astype(np.float32).astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*HOSTILE, *LARGE], ids=str)
def test_as_on_the_cpu(gpu, case, dtype, layout):
    """The same bits: values, cells, and sums, which are added in one order."""
    cpu = jax.devices("cpu")[0]
    run = program(case, layout)
    with wide(dtype):
        features = in_layout(case.features_as(dtype), layout)
        for integers in (True, False):
            cotangent = in_layout(cotangent_of(case, features.dtype, integers), layout)
            on_gpu, on_cpu = (
                jax.tree.map(
                    np.asarray, run(*jax.device_put((features, cotangent), device))
                )
                for device in (gpu, cpu)
            )
            for got, wanted in zip(on_gpu, on_cpu, strict=True):
                assert got.dtype == wanted.dtype
                assert_same(got, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_gradients_are_the_same_bits_on_a_busy_chip(gpu, case, layout):
    """100 times, crowded on few cells, beside another stream's work."""
    rois = case.rois.copy()
    rois[::2, 1:] = rois[0, 1:]
    features = in_layout(case.features, layout)
    cotangent = in_layout(cotangent_of(case, np.float32, False), layout)
    features, cotangent = jax.device_put((features, cotangent), gpu)

    @jax.jit
    def gradient(features, cotangent):
        def pool(f):
            return roi_pool(f, rois, case.size, case.scale, layout=layout)

        return jax.vjp(pool, features)[1](cotangent)[0]

    quiet = np.asarray(gradient(features, cotangent))
    assert np.count_nonzero(quiet) > 0
    with Busy(gpu.local_hardware_id or 0) as busy:
        before = busy.rounds
        for _ in range(100):
            got = np.asarray(gradient(features, cotangent))
            np.testing.assert_array_equal(got.view(np.uint32), quiet.view(np.uint32))
        assert busy.rounds > before


# --- CUDA graphs ----------------------------------------------------------------

# Steps of training, of which every number is the same on every run: no sum but
# that of the backward pass.
STEPS = """
    import hashlib, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax_roipool import roi_pool
    from tests.cases import normal, random_rois

    rois = jnp.asarray(random_rois(64, 2, 38, 63, 1 / 16))

    @jax.jit
    def step(weights, x):
        def loss(weights):
            return (roi_pool(weights * x, rois, 7, 1 / 16) ** 2).sum()
        return weights - 0.01 * jax.grad(loss)(weights)

    weights, x = jnp.ones((2, 38, 63, 32)), jnp.asarray(normal(2, 38, 63, 32))
    for _ in range(5):
        weights = step(weights, x)
    print(jax.default_backend(), hashlib.sha256(np.asarray(weights)).hexdigest())
"""


def custom_calls(thunks):
    """How many custom calls an XLA dump of thunks has in command buffers, and not.

    A thunk is a line, what a command buffer holds is indented below it.
    """
    inside = outside = 0
    buffer = None  # indentation of the one that we are in
    for line in thunks.splitlines():
        found = re.match(r"( *)(?:\d+: )?(k\w+)", line)
        if found is None:
            continue
        indent, kind = len(found[1]), found[2]
        if buffer is not None and indent <= buffer:
            buffer = None
        if kind == "kCommandBuffer":
            buffer = indent if buffer is None else buffer
        elif kind == "kCustomCall":
            inside += buffer is not None
            outside += buffer is None
    return inside, outside


def test_custom_calls_are_told_apart():
    text = """\
000: kCopy         \tcopy.1
001: kCommandBuffer\tcommand_buffer
  002: kKernel    \tfusion.2
  003: kCustomCall\troi_pool_argmax.3

004: kCustomCall   \troi_scatter.4
005: kSequential   \t
  006: kCommandBuffer\tcommand_buffer
    007: kCustomCall\troi_pool.7
  008: kCustomCall\troi_pool.8
"""
    assert custom_calls(text) == (2, 2)
    assert custom_calls("") == (0, 0)


def test_a_training_step_in_command_buffers(gpu, tmp_path):
    """XLA records both handlers into a CUDA graph, and replays it rightly."""
    recorded = [
        "--xla_gpu_enable_command_buffer=FUSION,CUSTOM_CALL",
        "--xla_gpu_graph_min_graph_size=1",
        f"--xla_dump_to={tmp_path}",
    ]
    said = []
    for flags in (recorded, ["--xla_gpu_enable_command_buffer="]):
        done = run_python(
            STEPS,
            JAX_PLATFORMS="cuda",
            XLA_FLAGS=" ".join(flags),
            XLA_PYTHON_CLIENT_PREALLOCATE="false",
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0].startswith("gpu ")
    assert said[0] == said[1]

    # Without that file no pass has changed anything: nothing was recorded.
    found = [
        custom_calls(path.read_text(encoding="utf-8", errors="replace"))
        for path in pathlib.Path(tmp_path).glob("*thunk_sequence_after_thunk_passes*")
    ]
    dumped = sorted(path.name for path in tmp_path.iterdir())
    assert (2, 0) in found, (found, dumped)
    assert all(outside == 0 for _, outside in found), found
