"""Sharded arrays and shard_map: right values and gradients, and what moves."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_roipool import (
    backends,
    lowering,
    partitioning,
    roi_pool_with_argmax,
    valid_rois,
)
from tests.cases import LAYOUTS, few_values, in_layout, random_rois, rng

pytestmark = pytest.mark.usefixtures("devices")

DEVICES = 8

FEATURES = few_values(8, 8, 10, 8)
FLAT = random_rois(16, 8, 8, 10, seed=1)
PER_IMAGE = random_rois(64, 1, 8, 10, seed=2)[:, 1:].reshape(8, 8, 4)


def loss_of(op, **kwargs):
    """The loss that is differentiated."""
    return lambda features, rois: (op(features, rois, 3, **kwargs) ** 2).sum()


# Specs of features [N, H, W, C] and rois over a mesh of 4 x 2 devices, and
# the sums over devices in the gradient where nothing else may move.
IMAGES, CHANNELS = P("x"), P(None, None, None, "x")
BOTH = ("x", "y")
STAY = {
    "per image": [
        (IMAGES, IMAGES, 0),
        (P(BOTH), P(BOTH), 0),
        (CHANNELS, P(), 0),
        (P(None, None, None, BOTH), P(), 0),
        (P("x", None, None, "y"), IMAGES, 0),
        (P(), P(None, "x"), 1),
        (P(), P(None, BOTH), 1),
        (IMAGES, P("x", "y"), 1),
        (CHANNELS, P(None, "y"), 1),
    ],
    "flat": [
        (P(), P("x"), 1),
        (P(), P(BOTH), 1),
        (CHANNELS, P(), 0),
        (CHANNELS, P("y"), 1),
    ],
}
# And those where something must move.
MOVE = {
    "per image": [
        (IMAGES, P()),
        (P(), IMAGES),
        (IMAGES, P("y")),
        (IMAGES, P(None, "x")),
        (CHANNELS, P("x")),
        (CHANNELS, P(None, "x")),
        (P(None, "x"), P()),
        (P(None, None, "y"), P("x")),
        (P(None, "x", "y"), P(None, "x")),
        (P("y", "x"), P("y")),
    ],
    "flat": [
        (IMAGES, P()),
        (IMAGES, P("x")),
        (P("x", None, None, "y"), P("y")),
        (CHANNELS, P("x")),
        (P(None, "x"), P("x")),
        (P(None, None, "y"), P("x")),
        (P(BOTH), P(BOTH)),
    ],
}
COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


def moved(function, *operands):
    """The collectives in the compiled program, and what it gives."""
    program = jax.jit(function).lower(*operands).compile()
    return COLLECTIVE.findall(program.as_text()), program(*operands)


def by(names, *values, ci):
    """All combinations of parameters: those in `ci`, every pair, and nightly all."""
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(*some, marks=() if some in ci else pytest.mark.nightly)
            for some in itertools.product(*values)
        ],
        indirect=["mesh"] if "mesh" in names else (),
    )


def moved_axis(spec, source, destination):
    """A spec of features whose axis was moved."""
    entries = [*spec] + [None] * (4 - len(spec))
    entries.insert(destination, entries.pop(source))
    return P(*entries)


def some(cases, lowered_to):
    """Plain JAX, slow to compile, has a few; partitioning is the same."""
    return cases[1::4] if lowered_to == backends.PLAIN else cases


@pytest.fixture(params=["auto", "explicit"])
def mesh(request):
    kind = AxisType.Auto if request.param == "auto" else AxisType.Explicit
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


def inputs(form, layout, mesh, spec, rois_spec):
    """Features and rois, sharded."""
    rois = FLAT if form == "flat" else PER_IMAGE
    if layout == "NCHW":
        spec = moved_axis(spec, 3, 1)
    return (
        jax.device_put(in_layout(FEATURES, layout), NamedSharding(mesh, spec)),
        jax.device_put(rois, NamedSharding(mesh, rois_spec)),
    )


by_mesh_and_form = by(
    ("mesh", "form", "layout"),
    ("auto", "explicit"),
    ("flat", "per image"),
    LAYOUTS,
    ci={
        ("auto", "flat", "NHWC"),
        ("auto", "per image", "NCHW"),
        ("explicit", "flat", "NCHW"),
        ("explicit", "per image", "NHWC"),
    },
)


@pytest.mark.plain_jax_in_ci(mesh=("auto",))
@by_mesh_and_form
def test_what_may_stay_does(lowered_to, op, mesh, form, layout):
    def everything(features, rois):
        gradient = jax.grad(loss_of(op, layout=layout))(features, rois)
        return *op.results(features, rois, 3, layout=layout), gradient

    want = None
    with jax.set_mesh(mesh):
        for spec, rois_spec, sums in some(STAY[form], lowered_to):
            operands = inputs(form, layout, mesh, spec, rois_spec)
            case = f"{spec} {rois_spec}"
            # Of these the gradient's sum alone may move, without which it is wrong.
            found, got = moved(everything, *operands)
            assert found == ["all-reduce"] * sums, case
            got = jax.tree.map(np.asarray, got)
            want = want or got
            jax.tree.map(op.assert_agrees, got, want)
    whole = in_layout(FEATURES, layout), FLAT if form == "flat" else PER_IMAGE
    jax.tree.map(op.assert_agrees, want, jax.jit(everything)(*whole))


@pytest.mark.plain_jax_in_ci(mesh=("explicit",))
@by_mesh_and_form
def test_what_must_move_is_right(lowered_to, op, mesh, form, layout):
    rois = FLAT if form == "flat" else PER_IMAGE
    valid = np.arange(rois[..., 0].size).reshape(rois.shape[:-1]) % 3 > 0

    def everything(features, rois, valid):
        results = op.results(features, rois, 3, layout=layout, valid=valid)
        gradient = jax.grad(loss_of(op, layout=layout, valid=valid))(features, rois)
        return *results, gradient, valid_rois(features, rois, layout=layout)

    want = jax.jit(everything)(in_layout(FEATURES, layout), rois, valid)
    with jax.set_mesh(mesh):
        replicated = jax.device_put(valid, NamedSharding(mesh, P()))
        for spec, rois_spec in some(MOVE[form], lowered_to):
            operands = inputs(form, layout, mesh, spec, rois_spec)
            got = jax.jit(everything)(*operands, replicated)
            for x, y in zip(got, want, strict=True):
                op.assert_agrees(x, y)


@pytest.mark.plain_jax_in_ci(rois=(10,))
@by(
    ("rois", "dtype"),
    (1, 7, 10),
    ("float32", "bfloat16"),
    ci={(1, "float32"), (7, "float32"), (10, "bfloat16")},
)
def test_rois_that_devices_do_not_divide(lowered_to, op, rois, dtype):
    """The last devices have rows that nobody has written."""
    kind = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=kind)
    features = jnp.asarray(FEATURES, dtype)

    def everything(features, boxes, shard):
        boxes = shard(boxes)
        pooled, pull = jax.vjp(lambda f: op(f, boxes, 3), features)
        return pooled, pull(shard(pooled * 2))[0]

    for boxes in (FLAT[:rois], PER_IMAGE[:, :rois]):
        spec = P(*[None] * (boxes.ndim - 2), BOTH)
        sharding = NamedSharding(mesh, spec)

        def shard(x, sharding=sharding):
            return jax.lax.with_sharding_constraint(x, sharding)

        run = jax.jit(everything, static_argnums=2)
        want = run(features, boxes, lambda x: x)
        got = run(features, boxes, shard)
        for x, y in zip(got, want, strict=True):
            op.assert_agrees(x, y)


@pytest.mark.plain_jax_in_ci(mesh=("auto",))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_once(lowered_to, op, mesh, dtype):
    """Sums of many numbers, of which parts in halves would be wrong."""
    features = jnp.asarray(np.ones((1, 1, 1, 2)), dtype)
    rois = np.tile(np.float32([0, 0, 0, 1, 1]), (1024, 1))
    cotangent = jnp.asarray(1 + rng(0).random((1024, 1, 1, 2)) / 8, dtype)
    exact = np.asarray(cotangent, np.float64).sum(0)

    def gradient(features, rois, cotangent):
        return jax.vjp(lambda f: op(f, rois, 1), features)[1](cotangent)[0]

    with jax.set_mesh(mesh):
        rois = jax.device_put(rois, NamedSharding(mesh, P(BOTH)))
        cotangent = jax.device_put(cotangent, NamedSharding(mesh, P(BOTH)))
        got = jax.jit(gradient)(features, rois, cotangent)
    np.testing.assert_array_equal(got[0], np.asarray(exact, got.dtype))


@pytest.mark.plain_jax_in_ci(inner=("images", "rois"), spmd=(False,), mesh=("auto",))
@pytest.mark.parametrize(
    ("mesh", "spmd"),
    [("auto", False), ("auto", True), ("explicit", False)],
    indirect=["mesh"],
)
@pytest.mark.parametrize("inner", ["images", "channels", "rois", "none"])
def test_vmap(lowered_to, op, mesh, inner, spmd):
    """The mapped axis over "x", one of the form's own over "y"."""
    features, rois = few_values(4, 4, 6, 7, 4), random_rois(48, 1, 6, 7)[:, 1:]
    rois = rois.reshape(4, 4, 3, 4)[:, :, [0, 1, 2, 0]]
    specs = {
        "images": (P("x", "y"), P("x", "y"), 0),
        "channels": (P("x", None, None, None, "y"), P("x"), 0),
        "rois": (P("x"), P("x", None, "y"), 1),
        "none": (P("x"), P("x"), 0),
    }
    spec, rois_spec, sums = specs[inner]
    name = "x" if spmd else None  # explicit types say so

    def everything(features, rois):
        pool = jax.vmap(lambda f, r: op(f, r, 3), spmd_axis_name=name)
        gradient = jax.vmap(jax.grad(loss_of(op)), spmd_axis_name=name)
        return pool(features, rois), gradient(features, rois)

    want = jax.jit(everything)(features, rois)
    with jax.set_mesh(mesh):
        operands = (
            jax.device_put(features, NamedSharding(mesh, spec)),
            jax.device_put(rois, NamedSharding(mesh, rois_spec)),
        )
        found, got = moved(everything, *operands)
        assert found == ["all-reduce"] * sums
    jax.tree.map(op.assert_agrees, got, want)


@pytest.mark.plain_jax_in_ci(forward_mode=(False,))
@by(
    ("check_vma", "vary", "forward_mode"),
    (True, False),
    ("rois", "both"),
    (True, False),
    ci={
        (True, "rois", False),
        (True, "both", True),
        (False, "rois", True),
        (False, "both", False),
    },
)
def test_shard_map(lowered_to, op, check_vma, vary, forward_mode):
    if forward_mode and not op.forward_mode:
        pytest.skip("has forward mode as it is")
    mode = op.forward_mode if forward_mode else {}
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    if vary == "rois":
        features, rois, in_specs = FEATURES, FLAT, (P(), P("d"))
    else:
        features, rois, in_specs = FEATURES, PER_IMAGE, (P("d"), P("d"))

    local_loss = loss_of(op, **mode)

    want = jax.grad(local_loss)(features, rois)

    def outside(features):
        def total(features, rois):
            return jax.lax.psum(local_loss(features, rois), "d")

        return jax.shard_map(
            total, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=check_vma
        )(features, rois)

    op.assert_agrees(jax.jit(jax.grad(outside))(features), want)

    def inside(features, rois):
        gradient = jax.grad(local_loss)(features, rois)
        if vary == "rois" and not check_vma:
            gradient = jax.lax.psum(gradient, "d")  # check_vma=True adds it
        return gradient

    got = jax.jit(
        jax.shard_map(
            inside,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=in_specs[0],
            check_vma=check_vma,
        )
    )(features, rois)
    op.assert_agrees(got, want)


def test_an_array_off_the_mesh(lowered_to, op):
    mesh = jax.make_mesh((DEVICES,), ("d",))
    want = jax.grad(loss_of(op))(FEATURES, FLAT)
    off_mesh = jnp.asarray(FEATURES), jnp.asarray(FLAT)
    with jax.set_mesh(mesh):
        features = jax.device_put(FEATURES, P(None, None, None, "d"))
        rois = jax.device_put(FLAT, P("d"))
        valid = jax.device_put(np.ones(16, bool), P("d"))
        for operands in ((off_mesh[0], rois), (features, off_mesh[1])):
            gradient = jax.jit(jax.grad(loss_of(op)))(*operands)
            op.assert_agrees(gradient, want)
        got = valid_rois(off_mesh[0], off_mesh[1], valid=valid)
        np.testing.assert_array_equal(got, True)
        pooled = op(features, rois, 3, valid=valid)
        op.assert_agrees(pooled, op(FEATURES, FLAT, 3))


def test_valid_rois_varies_as_the_rois_do():
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    got = jax.shard_map(
        lambda f, r: valid_rois(f, r),
        mesh=mesh,
        in_specs=(P(None, None, None, "d"), P()),
        out_specs=P(),
    )(FEATURES, FLAT)
    np.testing.assert_array_equal(got, True)


def test_types_say_how_the_result_is_sharded(op):
    mesh = jax.make_mesh((DEVICES,), ("d",))
    with jax.set_mesh(mesh):
        channels = jax.device_put(FEATURES, P(None, None, None, "d"))
        rois = jax.device_put(jnp.asarray(FLAT), P("d"))

        def spec(features, rois):
            out = jax.eval_shape(lambda f, r: op(f, r, 3), features, rois)
            return out.sharding.spec

        assert spec(channels, FLAT) == P(None, None, None, "d")
        assert spec(jnp.asarray(FEATURES), rois) == P("d", None, None, None)
        # One axis cannot shard both: the RoIs give way.
        assert spec(channels, rois) == P(None, None, None, "d")


@pytest.mark.parametrize("spec", [P(), P(None, None, None, "y")])
def test_partly_manual(lowered_to, op, spec):
    """Within a shard_map over "x", the compiler shards over "y": it gathers."""
    kind = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=kind)
    loss = loss_of(op)
    want = jax.jit(jax.grad(loss))(FEATURES, FLAT)

    def total(features, rois):
        return jax.lax.psum(loss(features, rois), "x")

    def gradient(features, rois):
        mapped = jax.shard_map(
            total,
            mesh=mesh,
            in_specs=(P(), P("x")),
            out_specs=P(),
            axis_names={"x"},
        )
        return jax.grad(mapped)(features, rois)

    operands = (
        jax.device_put(FEATURES, NamedSharding(mesh, spec)),
        jax.device_put(FLAT, NamedSharding(mesh, P("x"))),
    )
    op.assert_agrees(jax.jit(gradient)(*operands), want)


def test_a_sharded_program_is_exported_through_shard_map(kernels, op):
    from jax_roipool import export_disabled_checks

    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    specs = (P("d"), P("d"))

    def local(features, rois):
        return jax.grad(loss_of(op))(features, rois)

    step = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("d"))
    operands = [
        jax.device_put(x, NamedSharding(mesh, P("d"))) for x in (FEATURES, PER_IMAGE)
    ]
    exported = jax.export.export(
        jax.jit(step), disabled_checks=export_disabled_checks()
    )(*operands)
    assert exported.nr_devices == DEVICES
    again = jax.export.deserialize(exported.serialize())
    got = jax.jit(again.call)(*operands)
    want = jax.grad(loss_of(op))(FEATURES, PER_IMAGE)
    np.testing.assert_array_equal(got, want)


def test_limits_of_jax(kernels, op):
    """What docs/transformations.md says cannot be had."""
    gradient = jax.grad(loss_of(op))
    kind = (AxisType.Auto,)
    absent = NamedSharding(
        jax.sharding.AbstractMesh((DEVICES,), ("d",), axis_types=kind), P("d")
    )
    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=absent)
        for x in (FEATURES, PER_IMAGE)
    ]
    with pytest.raises(ValueError, match="AbstractMesh cannot be used"):
        jax.jit(gradient).trace(*shapes).lower(lowering_platforms=("cpu",))

    if not hasattr(jax.config, "jax_use_shardy_partitioner"):
        return
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=kind)
    sharding = NamedSharding(mesh, P("d"))
    operands = [jax.device_put(x, sharding) for x in (FEATURES, PER_IMAGE)]
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        got = jax.jit(gradient)(*operands)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    np.testing.assert_array_equal(got, gradient(FEATURES, PER_IMAGE))


# What the compiler asks on a thread of its own: which shardings the operands and
# results must have, for those that it would like.
ASKED = {  # group, RoIs, channels -> the same
    "groups and channels": (("x", None, "y"), ("x", None, "y")),
    "RoIs give way to channels": ((None, "x", "x"), (None, None, "x")),
    "RoIs": ((None, "x", None), (None, "x", None)),
    "groups and RoIs": (("x", "y", None), ("x", "y", None)),
}


@pytest.mark.parametrize("op", ["roi_pool_argmax", "roi_gather", "roi_scatter"])
@pytest.mark.parametrize(("asked", "want"), ASKED.values(), ids=ASKED)
def test_what_the_compiler_is_told(op, asked, want):
    """Per-image form, [g, k, ...], NHWC: no axis of the mesh is given twice."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    group, rois, channels = want

    def array(*spec, sizes):
        return jax.ShapeDtypeStruct(
            sizes, jnp.float32, sharding=NamedSharding(mesh, P(*spec))
        )

    maps = (8, 1, 6, 7, 4), (asked[0], None, None, None, asked[2])
    boxes = (8, 4, 4), (*asked[:2], None)
    image = (8, 4), asked[:2]
    once = None if asked[2] in asked[:2] else asked[2]
    pooled = (8, 4, 2, 2, 4), (*asked[:2], None, None, once)
    operands, results, params = {
        "roi_pool_argmax": (
            (maps, boxes, image),
            (pooled, pooled),
            {"output_size": (2, 2), "spatial_scale": ((1.0, 1.0),)},
        ),
        "roi_gather": ((maps, image, pooled), (pooled,), {}),
        "roi_scatter": (
            (pooled, image, pooled),
            (maps,),
            {"group_ndim": 1, "map_size": (1, 6, 7)},
        ),
    }[op]
    function = partitioning.partitioned(
        lowering.ops()[op],
        tuple(len(s) for s, _ in operands),
        **params,
        layout="NHWC",
    )
    operands, results = (
        tuple(array(*spec, sizes=sizes) for sizes, spec in some)
        for some in (operands, results)
    )
    single = not lowering.ops()[op].several_results
    _, run, told_results, told_operands = function.partition(
        mesh, operands, results[0] if single else results
    )
    told = (*told_operands, *((told_results,) if single else told_results))
    for sharding, x in zip(told, (*operands, *results), strict=True):
        spec = tuple(sharding.spec)
        assert len(spec) == x.ndim
        assert spec[:2] == (group, rois if x.shape[1] == 4 else None)
        if x.ndim == 5:
            assert spec[2:] == (None, None, channels)
    sums = getattr(run, "keywords", {}).get("sums", ())
    summed = [(each.axis, each.size, each.names) for each in sums]
    wanted = op == "roi_scatter" and rois
    assert summed == ([(1, 4, (rois,))] if wanted else [])


@pytest.mark.parametrize("count", [16, 13])
def test_the_sum_over_devices(count):
    """What every device then runs on its RoIs; the last may have fewer."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    features, rois = FEATURES[:2, :6, :7], random_rois(16, 2, 6, 7)
    _, argmax = roi_pool_with_argmax(features, rois, 2)
    image = jnp.asarray(rois[:, 0], jnp.int32)
    cotangent = few_values(*argmax.shape)
    params = {"group_ndim": 0, "map_size": (2, 6, 7), "layout": "NHWC"}
    sums = (partitioning.Sum(0, count, ("d",)),)
    scatter = lowering.ops()["roi_scatter"]

    def each(*operands):
        return partitioning.sum_over_devices(scatter, *operands, sums=sums, **params)

    run = jax.shard_map(each, mesh=mesh, in_specs=P("d"), out_specs=P())
    (got,) = jax.jit(run)(cotangent, image, argmax)
    left = jnp.where(jnp.arange(16) < count, image, -1)
    (want,) = scatter.bind(jnp.asarray(cotangent), left, argmax, **params)
    np.testing.assert_array_equal(got, want)
    assert np.any(want)
    (total,) = jax.eval_shape(
        lambda: scatter.summed.bind(
            jnp.asarray(cotangent), image, argmax, sums=sums, **params
        )
    )
    assert (total.shape, total.dtype) == (features.shape, features.dtype)
