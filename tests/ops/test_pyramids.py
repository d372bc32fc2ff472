"""Several levels in one call: what the calls of each level give, and one launch."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_roipool import export_disabled_checks, fpn_levels, valid_rois
from tests.cases import (
    LAYOUTS,
    custom_calls,
    dtype_of,
    few_values,
    in_layout,
    random_rois,
)
from tests.ops.test_sharding import moved

SIZES = ((9, 13), (5, 6), (0, 4), (1, 2))
SCALES = (0.5, (0.25, 0.2), 0.125, 1 / 16)
SIZE = (3, 2)
LEVELS = np.array([0, 1, 3, 2, -1, 0, 4, 1, 3, 0, 1, 2**31 - 1])
ROIS = random_rois(len(LEVELS), 2, *SIZES[0], 0.5, seed=3)
ROIS[9, 0], ROIS[10, 2] = 5, np.nan
VALID = np.arange(len(LEVELS)) != 5


def pyramid(*shape, layout="NHWC", dtype="float32"):
    """Features of every level: [*shape, H, W, 5]."""
    maps = [few_values(*shape, *size, 5, seed=i) for i, size in enumerate(SIZES)]
    return [in_layout(x, layout).astype(dtype_of(dtype)) for x in maps]


def call(op, maps, rois=ROIS, levels=LEVELS, valid=VALID, scales=SCALES, **kwargs):
    """Of one level too, if `maps` is an array."""
    several = {"levels": levels} if isinstance(maps, list) else {}
    return op.results(maps, rois, SIZE, scales, valid=valid, **several, **kwargs)


def loss(op, maps, *args, **kwargs):
    return (call(op, maps, *args, **kwargs)[0].astype(jnp.float32) ** 2).sum()


def check_each_level(op, maps, got, layout="NHWC", **kwargs):
    """Results of a pyramid against those of single maps."""
    some = np.zeros(LEVELS.shape, bool)
    for number, one in enumerate(maps):
        here = (number == LEVELS) & VALID
        some |= here
        single = call(op, one, valid=here, scales=SCALES[number], layout=layout)
        for x, want in zip(got, single, strict=True):
            assert x.dtype == want.dtype
            op.assert_agrees(np.asarray(x)[here], np.asarray(want)[here])
    assert not np.asarray(got[0])[~some].any()


@pytest.mark.plain_jax_in_ci(dtype=("float32",))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pyramid_equals_its_levels(implementation, op, layout, dtype):
    maps = pyramid(2, layout=layout, dtype=dtype)
    got = jax.jit(partial(call, op, layout=layout))(maps)
    check_each_level(op, maps, got, layout)
    assert np.asarray(got[0]).any()
    gradient = jax.jit(jax.grad(partial(loss, op, layout=layout)))(maps)
    for number, one in enumerate(maps):
        here = (number == LEVELS) & VALID
        scales = SCALES[number]
        single = partial(loss, op, valid=here, scales=scales, layout=layout)
        want = jax.grad(single)(one)
        assert gradient[number].shape == one.shape
        op.assert_agrees(gradient[number], want)


def test_levels_are_told_by_size(lowered_to, op):
    maps = [few_values(2, n, n, 3, seed=n) for n in (64, 32, 16, 8)]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    sides = [20, 111, 113, 230, 500, -300]
    rois = np.array([[i % 2, 8, 8, 8 + s, 8 + s] for i, s in enumerate(sides)])
    levels = fpn_levels(rois, 4)
    np.testing.assert_array_equal(levels, [0, 0, 1, 2, 3, 2])
    got = op(maps, rois, SIZE, scales)
    want = op(maps, rois, SIZE, scales, levels=levels)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_forms_of_pyramids_agree(lowered_to, op, layout):
    maps = pyramid(2, layout=layout)
    boxes = ROIS[:, 1:].reshape(2, -1, 4)
    flat = np.concatenate([np.repeat([[0.0], [1.0]], 6, axis=0), ROIS[:, 1:]], axis=1)
    levels, valid = LEVELS.reshape(2, -1), VALID.reshape(2, -1)
    wanted = call(op, maps, flat, layout=layout)
    per_image = call(op, maps, boxes, levels, valid, layout=layout)
    for x, want in zip(per_image, wanted, strict=True):
        op.assert_agrees(x.reshape(want.shape), want)
    for i in range(2):
        one = [x[i] for x in maps]
        single = call(op, one, boxes[i], levels[i], valid[i], layout=layout)
        for x, want in zip(single, per_image, strict=True):
            op.assert_agrees(x, want[i])


def test_vmap_of_pyramids(lowered_to, op):
    """Over everything; and over RoIs alone, which copies no map."""
    maps = pyramid(3, 2)
    each = [call(op, [x[b] for x in maps])[0] for b in range(3)]
    rois, levels = (np.stack([x] * 3) for x in (ROIS, LEVELS))
    got = jax.vmap(lambda m, r, v: call(op, m, r, v)[0])(maps, rois, levels)
    op.assert_agrees(got, np.stack(each))

    maps = [x[0] for x in maps]

    def summed(maps):
        several = jax.vmap(lambda r: loss(op, maps, r, **op.forward_mode))(rois)
        return several.sum()

    op.assert_agrees(
        jax.grad(summed)(maps)[0], 3 * jax.grad(partial(loss, op))(maps)[0]
    )
    text = str(jax.make_jaxpr(jax.grad(summed))(maps))
    for height, width in SIZES:
        assert f"[3,2,{height},{width},5]" not in text


def test_forward_mode_of_pyramids(lowered_to, op):
    maps, tangents = pyramid(2), pyramid(2)

    def f(maps):
        return call(op, maps, **op.forward_mode)[0]

    pooled, derivative = jax.jvp(f, (maps,), (tangents,))
    op.assert_agrees(derivative, pooled)
    # Along one level alone, and back.
    moved_one = [tangents[0], *(np.zeros_like(x) for x in tangents[1:])]
    _, derivative = jax.jvp(f, (maps,), (moved_one,))
    op.assert_agrees(
        derivative, np.where((LEVELS == 0)[:, None, None, None], pooled, 0)
    )
    first = jax.grad(lambda x: (f([x, *maps[1:]]) ** 2).sum())(maps[0])
    op.assert_agrees(first, jax.grad(partial(loss, op))(maps)[0])


@pytest.mark.parametrize("axis", [0, 1], ids=["images", "RoIs"])
def test_sharded_pyramids(kernels, devices, op, axis):
    """Nothing moves forward; backward one sum where RoIs are sharded."""
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,))
    maps = pyramid(devices)
    rois = np.stack([random_rois(8, 1, 9, 13, 0.5, seed=s)[:, 1:] for s in range(8)])
    levels = np.arange(64).reshape(8, 8) % 4
    gradient = jax.grad(partial(loss, op))
    operands = (maps, rois, levels, None)
    want = call(op, *operands)[0], gradient(*operands)
    spec = P("d") if axis == 0 else P(None, "d")
    with jax.set_mesh(mesh):
        maps = jax.device_put(maps, NamedSharding(mesh, P("d") if axis == 0 else P()))
        rois, levels = jax.device_put((rois, levels), NamedSharding(mesh, spec))
        operands = (maps, rois, levels, None)
        found, pooled = moved(lambda *x: call(op, *x)[0], *operands)
        assert found == []
        op.assert_agrees(pooled, want[0])
        found, got = moved(gradient, *operands)
        assert set(found) == ({"all-reduce"} if axis else set())
    for x, y in zip(got, want[1], strict=True):
        op.assert_agrees(x, y)


def test_one_launch(kernels, op):
    maps = pyramid(2)
    loss_of = partial(loss, dataclasses.replace(op, with_argmax=None))
    step = jax.jit(jax.value_and_grad(loss_of))
    assert custom_calls(step.lower(maps).as_text()) == op.calls[1]
    forward = jax.jit(lambda m: op(m, ROIS, SIZE, SCALES, levels=LEVELS))
    assert custom_calls(forward.lower(maps).as_text()) == op.calls[0]
    exported = jax.export.export(forward, disabled_checks=export_disabled_checks())(
        maps
    )
    again = jax.export.deserialize(exported.serialize()).call(maps)
    np.testing.assert_array_equal(again, forward(maps))


def test_a_pyramid_of_one_level(lowered_to, op):
    (first, *_), levels = pyramid(2), np.zeros(len(ROIS), int)
    want = op(first, ROIS, SIZE, 0.5)
    np.testing.assert_array_equal(op((first,), ROIS, SIZE, (0.5,)), want)
    got = op([first], ROIS, SIZE, [(0.5, 0.5)], levels=levels + [*[0] * 11, 1])
    np.testing.assert_array_equal(got[:11], want[:11])
    assert not np.asarray(got[11]).any()


def test_which_rois_of_a_pyramid_are_empty():
    got = valid_rois(pyramid(2), ROIS, levels=LEVELS, valid=VALID)
    want = [1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(got, np.array(want, bool))


# --- What is refused ---------------------------------------------------------

A, B = np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("features", "kwargs", "error", "words"),
    [
        (
            [A, B],
            {"spatial_scale": 1},
            ValueError,
            "spatial_scale must be a seq.*2 lev",
        ),
        ([A, B], {"spatial_scale": [1.0]}, ValueError, "spatial_scale must be a s"),
        ([A, B], {"spatial_scale": [1, 0]}, ValueError, "spatial_scale must be finite"),
        ([A, B], {"spatial_scale": [1, "x"]}, TypeError, "spatial_scale must be a num"),
        ([A, B[:1]], {}, ValueError, "features must have as many images"),
        ([A, B[..., :2]], {}, ValueError, "features must have as many images"),
        ([A, B.astype(np.float16)], {}, TypeError, "features must have one dtype"),
        ([A, B.astype(int)], {}, TypeError, r"features\[1\] must be one of"),
        ([A, 3], {}, TypeError, r"features\[1\] must be an array"),
        ([], {}, ValueError, "features must have 1 to 16 levels, got 0"),
        ([A] * 17, {}, ValueError, "features must have 1 to 16 levels, got 17"),
        (A, {"levels": np.zeros(3, int)}, ValueError, "levels goes with features of"),
        ([A, B], {"levels": np.zeros(3)}, TypeError, "levels must be ints"),
        ([A, B], {"levels": np.zeros(3, bool)}, TypeError, "levels must be ints"),
        (
            [A, B],
            {"levels": np.zeros(2, int)},
            ValueError,
            "levels must have one entry",
        ),
        ([A, B], {"levels": [0, 0, 0]}, TypeError, "levels must be an array"),
    ],
)
def test_bad_pyramids(op, features, kwargs, error, words):
    if isinstance(features, list):
        kwargs = {"spatial_scale": [1.0] * len(features), **kwargs}
    with pytest.raises(error, match=words):
        op(features, np.zeros((3, 5), np.float32), 2, **kwargs)
