"""Random calls of the public functions equal the oracle.

Hypothesis draws shapes, layouts, dtypes, numbers as raw bit patterns, image
indices and masks, and how the call is made: as it is, under jit, under vmap. In
CI the same few every time, nightly many and always others. A shrunk failure is
kept in `FOUND`.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import backends, valid_rois
from tests.cases import (
    DTYPES,
    LAYOUTS,
    assert_same,
    channels_last,
    dtype_of,
    in_layout,
    rng,
)
from tests.conftest import wide
from tests.cuda import on_host
from tests.oracle.rois import image_of

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

FORMS = ("flat", "per image", "one image")
ROI_DTYPES = ("float32", "float32", "float32", "float64", "float16", "bfloat16")
ROI_DTYPES += ("int32", "int16", "uint8", "uint32")
SCALES = (1.0, 0.5, 1 / 16, 1 / 3, 7.3, 0.0625001, 1e-38, 1e-45, 1e30)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, channels last; several of one shape under vmap."""

    form: str
    layout: str
    features: np.ndarray  # [B, N, H, W, C]
    rois: np.ndarray  # [B, K, 5] or [B, N, R, 4], as the form says
    valid: np.ndarray | None  # [B, K] or [B, N, R]
    size: tuple[int, int]
    scale: tuple[float, float]
    mapped: tuple[bool, bool] | None  # features and rois under vmap; None: no vmap
    jitted: bool


def bit_patterns(dtype):
    """Numbers of a dtype from raw bits: every class of float as likely as normal."""
    bits = 8 * dtype.itemsize
    raw = st.integers(0, 2**bits - 1)
    if dtype.kind in "iu":
        return raw.map(lambda x: np.array(x, f"u{dtype.itemsize}").view(dtype)[()])
    mantissa = {16: 10, 32: 23, 64: 52}[bits]
    if dtype == dtype_of("bfloat16"):
        mantissa = 7
    top = (1 << (bits - 1 - mantissa)) - 1  # the exponent of NaN and infinity
    fraction = st.sampled_from([0, 1, (1 << mantissa) - 1, 1 << (mantissa - 1)])
    made = st.builds(
        lambda sign, exponent, fraction: (
            sign << (bits - 1) | exponent << mantissa | fraction
        ),
        st.integers(0, 1),
        st.sampled_from([0, 0, 1, top - 1, top, top, top // 2, top // 2 + 1]),
        fraction,
    )
    return st.one_of(made, raw).map(
        lambda x: np.array(x, f"u{dtype.itemsize}").view(dtype)[()]
    )


def coordinates(dtype, extent):
    """Mostly in and around a map, halves among them; raw bits now and then."""
    if dtype.kind in "iu":
        low, high = (-3, extent + 3) if dtype.kind == "i" else (0, extent + 3)
        near = st.integers(low, high)
    else:
        near = st.integers(-6, 2 * extent + 6).map(lambda x: x / 2)
    near = near.map(lambda x: np.array(x).astype(dtype)[()])
    return st.one_of(near, near, near, bit_patterns(dtype))


@st.composite
def calls(draw):
    form, layout = draw(st.sampled_from(FORMS)), draw(st.sampled_from(LAYOUTS))
    dtype = dtype_of(draw(st.sampled_from(DTYPES)))
    images = 1 if form == "one image" else draw(st.integers(0, 3))
    height, width = draw(st.integers(0, 14)), draw(st.integers(0, 14))
    channels = draw(st.sampled_from([0, 1, 1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 65]))
    rois = draw(st.integers(0, 5))
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    one_scale = st.one_of(st.sampled_from(SCALES), st.floats(2**-7, 4, width=32))
    scale = draw(st.tuples(one_scale, one_scale))
    mapped = draw(
        st.sampled_from([None, None, (True, True), (True, False), (False, True)])
    )
    batch = 1 if mapped is None else 2
    palette = draw(st.lists(bit_patterns(dtype), min_size=1, max_size=6))
    features = rng(draw(st.integers(0, 999))).choice(
        np.array(palette, dtype), (batch, images, height, width, channels)
    )
    roi_dtype = dtype_of(draw(st.sampled_from(ROI_DTYPES)))
    shape = (batch, rois) if form == "flat" else (batch, images, rois)
    numbers = []
    for _ in range(np.prod(shape)):
        roi = [draw(coordinates(roi_dtype, x)) for x in (width, height) * 2]
        if form == "flat":
            roi.insert(0, draw(coordinates(roi_dtype, images)))
        numbers.append(roi)
    last = 5 if form == "flat" else 4
    boxes = np.array(numbers, roi_dtype).reshape(*shape, last)
    valid = None
    if draw(st.booleans()):
        flags = st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers))
        valid = np.array(draw(flags), bool).reshape(shape)
    jitted = draw(st.sampled_from([True, True, False]))
    return Call(form, layout, features, boxes, valid, size, scale, mapped, jitted)


# What failed, shrunk; each is tried every time.
FOUND = [
    # The derivative in plain JAX without images; the soak.
    Call(
        form="flat",
        layout="NCHW",
        features=np.zeros((1, 0, 2, 2, 1), np.float32),
        rois=np.zeros((1, 1, 5), np.float32),
        valid=None,
        size=(1, 1),
        scale=(1.0, 1.0),
        mapped=None,
        jitted=True,
    ),
    # A signalling NaN as the index of an image; the oracle warned in the soak.
    Call(
        form="flat",
        layout="NHWC",
        features=np.ones((1, 1, 8, 1, 1), np.float16),
        rois=np.array([[[0x7F81, 0, 0, 0x4000, 0x4000]]], np.uint16).view(
            jnp.bfloat16.dtype
        ),
        valid=None,
        size=(4, 5),
        scale=(2.5, 1.0),
        mapped=None,
        jitted=True,
    ),
]


def flat(call, map_, per_roi):
    """An example in the flat form: features, rois, valid."""
    features, rois = call.features[map_], call.rois[per_roi]
    valid = None if call.valid is None else call.valid[per_roi].reshape(-1)
    if call.form == "flat":
        return features, rois, valid
    index = np.repeat(np.arange(len(rois)), rois.shape[1])[:, None]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        boxes = rois.reshape(-1, 4).astype(np.float64)  # exact
    return features, np.hstack([index, boxes]), valid


def everything(features, rois, valid, cotangent, tangent, *, op, call):
    """Results, gradient, derivative and which RoIs are not empty, of one example."""
    arguments = {"valid": valid, "layout": call.layout}
    static = call.size, call.scale

    def pool(features, **mode):
        return op(features, rois, *static, **arguments, **mode)

    plain, pull = jax.vjp(pool, features)
    forward = partial(pool, **op.forward_mode)
    derivative = jax.jvp(forward, (features,), (tangent,))[1]
    results = op.results(features, rois, *static, **arguments)
    filled = valid_rois(features, rois, **arguments)
    return (plain, pull(cotangent)[0], derivative, *results, filled)


def answers(op, call, cotangent, tangent):
    """What `everything` gives, as lists: one entry for each example of the call."""

    def form(x):
        return x[:, 0] if call.form == "one image" and x is not None else x

    # Several examples of each; under vmap without a map, or without RoIs of their
    # own, the first.
    maps, per_roi = call.mapped or (True, True)
    operands = [
        (in_layout(form(call.features), call.layout), maps),
        (form(call.rois), per_roi),
        (form(call.valid), per_roi),
        (in_layout(form(cotangent), call.layout), True),
        (in_layout(form(tangent), call.layout), maps),
    ]
    function = partial(everything, op=op, call=call)
    if call.mapped:
        axes = [0 if own and x is not None else None for x, own in operands]
        function = jax.vmap(function, axes)
        arguments = [x if own or x is None else x[0] for x, own in operands]
    else:
        arguments = [None if x is None else x[0] for x, _ in operands]
    if call.jitted:
        function = jax.jit(function)
    # What JAX says where it, not the op, makes float64 of NumPy float32.
    lost = "ignore" if converted_by_jax(call) else None
    with wide(str(call.features.dtype)), np.errstate(over=lost, invalid=lost):
        got = jax.tree.map(np.asarray, function(*arguments))
    return got if call.mapped else [x[None] for x in got]


def converted_by_jax(call):
    """Whether JAX makes float32 of float64 before the op sees it."""
    return (call.mapped or call.jitted) and call.features.dtype != np.float64


def check(op, call):
    batch, *_, channels = call.features.shape
    rois, dtype, r = call.rois.shape[1:-1], call.features.dtype, rng(1)
    cotangent = r.integers(-2, 3, (batch, *rois, *call.size, channels)).astype(dtype)
    tangent = r.integers(-2, 3, call.features.shape).astype(dtype)
    got = answers(op, call, cotangent, tangent)
    more = [] if op.with_argmax is None else [dtype, np.int32]
    assert [x.dtype for x in got] == [*[dtype] * 4, *more, bool]

    if converted_by_jax(call) and call.rois.dtype == np.float64:
        with np.errstate(over="ignore", invalid="ignore"):
            call = dataclasses.replace(call, rois=call.rois.astype(np.float32))
    maps, per_roi = call.mapped or (True, True)
    flat_pooled = (int(np.prod(rois)), *call.size, channels)
    for b in range(batch):
        example = flat(call, b if maps else 0, b if per_roi else 0)
        features, rois, valid = example
        arguments = features, rois, call.size, call.scale, valid
        (result, *others), slack = op.wanted(*arguments)
        weights = cotangent[b].reshape(flat_pooled)
        *arrays, got_filled = (x[b] for x in got)
        plain, gradient, derivative, first, *rest = (
            channels_last(x, call.layout) for x in arrays
        )
        for x in (plain, first):
            op.assert_near(x.reshape(result.shape), result, slack)
        for x, want in zip(rest, others, strict=True):
            assert_same(x.reshape(want.shape), want)
        want, slack = op.wanted_gradient(weights, *arguments)
        op.assert_near(gradient.reshape(want.shape), want, slack)
        want, slack = op.wanted_derivative(tangent[b if maps else 0], *arguments)
        op.assert_near(derivative.reshape(want.shape), want, slack)
        filled = [
            image_of(roi, len(features), valid is None or valid[k]) is not None
            for k, roi in enumerate(rois)
        ]
        assert_same(got_filled.reshape(-1), filled)


def run(op, examples, **settings):
    """That many calls; the same for all implementations if not `random`."""

    @hypothesis.given(calls())
    def test(call):
        check(op, call)

    for call in FOUND:
        test = hypothesis.example(call)(test)
    hypothesis.settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        **settings,
    )(test)()


def share(implementation):
    """How many of the calls: plain JAX is slow to compile, CUDA on a host to run."""
    return {backends.PLAIN: 0.15, on_host.NAME: 0.3}.get(implementation, 1)


def test_random_calls(implementation, op):
    run(op, int(32 * share(implementation)), derandomize=True, database=None)


@pytest.mark.nightly
def test_more_random_calls(implementation, op):
    run(op, int(1000 * share(implementation)), print_blob=True)
