"""A new op from its record alone: what it gets without a line elsewhere.

The op is defined here, in plain JAX: a weighted sum of the rows and columns of a box,
as a linear op of a family would be, and its transpose. It has no kernel, which is why
CPU and CUDA run its plain JAX; everything else is what `Op`, `register` and
`define_linear` make of a signature.
"""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jax_roipool import lowering, partitioning, plain
from jax_roipool.primitive import Op, define_linear
from tests.cases import few_values, rng

SIZE = (2, 3)


# --- The op ------------------------------------------------------------------


def weights(low, high, bins, extent):
    """[..., bins, extent]: 1 for the cells of a bin, 0 elsewhere. Integers."""
    edges = jnp.arange(bins + 1, dtype=jnp.float32)
    edges = low[..., None] + (high - low)[..., None] * edges / bins
    cells = jnp.arange(extent, dtype=jnp.float32)
    inside = (cells >= edges[..., :-1, None]) & (cells < edges[..., 1:, None])
    return inside.astype(jnp.float32)


def bands(boxes, image_index, size, images, height, width):
    """Rows and columns of every RoI's bins, and its image as one of `images`."""
    rows = weights(boxes[..., 1], boxes[..., 3], size[0], height)
    columns = weights(boxes[..., 0], boxes[..., 2], size[1], width)
    return rows, columns, jax.nn.one_hot(image_index, images)


def wide(x):
    """In float32 or wider, to be summed."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def plain_sum(maps, boxes, image_index, *, output_size, layout, bands=bands):
    maps = plain.channels_last(maps, layout)
    *groups, images, height, width, channels = maps.shape
    flat = maps.reshape(math.prod(groups), images, height, width, channels)
    rois = image_index.shape[len(groups) :]
    boxes = boxes.reshape(len(flat), math.prod(rois), 4)
    which = image_index.reshape(boxes.shape[:2])
    rows, columns, one = bands(boxes, which, output_size, images, height, width)
    out = jnp.einsum("gkph,gkqw,gkn,gnhwc->gkpqc", rows, columns, one, wide(flat))
    out = out.astype(maps.dtype).reshape(*groups, *rois, *output_size, channels)
    return plain.to_layout(out, layout)


def plain_spread(
    pooled, boxes, image_index, *, map_size, group_ndim, layout, bands=bands
):
    pooled = plain.channels_last(pooled, layout)
    *output_size, channels = pooled.shape[-3:]
    groups = image_index.shape[:group_ndim]
    rois = math.prod(image_index.shape[group_ndim:])
    flat = pooled.reshape(math.prod(groups), rois, *output_size, channels)
    boxes = boxes.reshape(*flat.shape[:2], 4)
    which = image_index.reshape(flat.shape[:2])
    rows, columns, one = bands(boxes, which, output_size, *map_size)
    out = jnp.einsum("gkph,gkqw,gkn,gkpqc->gnhwc", rows, columns, one, wide(flat))
    out = out.astype(pooled.dtype).reshape(*groups, *map_size, channels)
    return plain.to_layout(out, layout)


def no_example(dtype, layout):
    raise NotImplementedError


@pytest.fixture(scope="module")
def ops():
    """The op and its transpose, registered for as long as these tests run."""
    before = lowering.ops()
    sums = lowering.register(
        Op(
            "test_box_sum",
            "G N H W C, G K 4, G K -> G K P Q C",
            plain=plain_sum,
            sizes={"output_size": "P Q"},
            example=no_example,
        )
    )
    spread = lowering.register(
        Op(
            "test_box_spread",
            "G K P Q C, G K 4, G K -> G N H W C",
            plain=plain_spread,
            sizes={"map_size": "N H W"},
            example=no_example,
        )
    )
    define_linear(sums, spread)
    define_linear(spread, sums)
    yield sums, spread
    for name in lowering.ops().keys() - before.keys():
        del lowering._ops[name]


@pytest.fixture
def box_sum(ops):
    """The op as a function of maps, boxes and image indices."""

    def call(maps, boxes, image_index, layout="NHWC"):
        operands = partitioning.match_varying_axes(maps, boxes, image_index)
        return ops[0].bind(*operands, output_size=SIZE, layout=layout)

    return call


# --- What is expected of it --------------------------------------------------

N, K, H, W, C = 2, 8, 6, 7, 8


def inputs(*groups, rois=(K,), seed=0):
    """Small integers: every sum is exact, in any order."""
    r = rng(seed)
    maps = few_values(*groups, N, H, W, C, seed=seed)
    corners = np.sort(r.integers(0, 8, (*groups, *rois, 2, 2)), axis=-2)
    boxes = corners.reshape(*groups, *rois, 4).astype(np.float32)
    image_index = r.integers(-1, N + 1, (*groups, *rois)).astype(np.int32)
    return maps, boxes, image_index


def oracle(maps, boxes, image_index):
    """One group, NumPy."""
    out = np.zeros((len(boxes), *SIZE, maps.shape[-1]))
    for k, (x1, y1, x2, y2) in enumerate(boxes.astype(np.float64)):
        if not 0 <= image_index[k] < len(maps):
            continue
        for p in range(SIZE[0]):
            for q in range(SIZE[1]):
                y = np.arange(H)[:, None]
                x = np.arange(W)[None, :]
                low = y1 + (y2 - y1) * p / SIZE[0], x1 + (x2 - x1) * q / SIZE[1]
                high = (
                    y1 + (y2 - y1) * (p + 1) / SIZE[0],
                    x1 + (x2 - x1) * (q + 1) / SIZE[1],
                )
                inside = (y >= low[0]) & (y < high[0]) & (x >= low[1]) & (x < high[1])
                out[k, p, q] = maps[image_index[k]][inside].sum(axis=0)
    return out


def loss(call, maps, boxes, image_index, **kwargs):
    return (call(maps, boxes, image_index, **kwargs) ** 2).sum()


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def moved(function, *operands):
    """The collectives in the compiled program."""
    text = jax.jit(function).lower(*operands).compile().as_text()
    return re.findall(
        r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        r"(?:-start)?\(",
        text,
    )


# --- Values, layouts, groups -------------------------------------------------


def test_values_under_jit(box_sum):
    operands = inputs()
    want = oracle(*operands)
    assert np.any(want)
    same(box_sum(*operands), want)
    same(jax.jit(box_sum)(*operands), want)


def test_channels_first(box_sum):
    maps, boxes, image_index = inputs()
    first = np.moveaxis(maps, -1, -3)
    got = box_sum(first, boxes, image_index, layout="NCHW")
    same(got, np.moveaxis(oracle(maps, boxes, image_index), -1, -3))
    gradient = jax.grad(partial(loss, box_sum))
    got = gradient(first, boxes, image_index, layout="NCHW")
    same(got, jnp.moveaxis(gradient(maps, boxes, image_index), -1, -3))


def test_several_axes_of_groups_and_rois(box_sum):
    maps, boxes, image_index = inputs(2, 3, rois=(4, 2))
    got = box_sum(maps, boxes, image_index)
    assert got.shape == (2, 3, 4, 2, *SIZE, C)
    gradient = jax.grad(partial(loss, box_sum))(maps, boxes, image_index)
    for g in np.ndindex(2, 3):
        flat = boxes[g].reshape(8, 4), image_index[g].reshape(8)
        same(got[g].reshape(8, *SIZE, C), oracle(maps[g], *flat))
        same(gradient[g], jax.grad(partial(loss, box_sum))(maps[g], *flat))


# --- Derivatives -------------------------------------------------------------


def test_derivatives(box_sum):
    maps, boxes, image_index = inputs()
    call = partial(box_sum, boxes=boxes, image_index=image_index)
    out, tangent = jax.jvp(call, (maps,), (maps + 1,))
    same(tangent, oracle(maps + 1, boxes, image_index))
    cotangent = few_values(*out.shape, seed=3)
    (pulled,) = jax.vjp(call, maps)[1](cotangent)
    # <A x, y> = <x, A^T y>, exactly: integers.
    assert (out * cotangent).sum() == (maps * pulled).sum()
    (transposed,) = jax.linear_transpose(call, maps)(cotangent)
    same(transposed, pulled)
    _, linear = jax.linearize(call, maps)
    same(linear(maps), out)


def test_derivatives_of_higher_order(box_sum):
    maps, boxes, image_index = (x[:2] for x in inputs())
    small = maps[:, :3, :2, :1]

    def of(maps):
        return (box_sum(maps, boxes / 2, image_index) ** 3).sum()

    check_grads(
        lambda x: box_sum(x, boxes, image_index) ** 2,
        (maps,),
        order=2,
        modes=["fwd", "rev"],
        rtol=2e-2,
    )
    forward_over_reverse = jax.hessian(of)(small)
    reverse_over_reverse = jax.jacrev(jax.grad(of))(small)
    np.testing.assert_array_equal(forward_over_reverse, reverse_over_reverse)
    twice = jax.grad(lambda x: jax.grad(of)(x).sum())(small)
    np.testing.assert_array_equal(twice, forward_over_reverse.sum(axis=tuple(range(4))))


def test_boxes_alone_have_no_derivative(box_sum):
    maps, boxes, image_index = inputs()
    got = jax.grad(lambda b: loss(box_sum, maps, b, image_index))(boxes)
    same(got, np.zeros_like(boxes))


# --- vmap --------------------------------------------------------------------

MAPPED = {"maps": (0, None, None), "boxes": (None, 0, 0), "both": (0, 0, 0)}


def batch(mapped, outer=()):
    """Operands with an axis more where they are mapped."""
    several = inputs(*outer, 3)
    return [
        x if axis is not None else x[(*[slice(None)] * len(outer), 0)]
        for x, axis in zip(several, mapped, strict=True)
    ]


def loop(f, operands, mapped):
    return np.stack(
        [
            f(
                *(
                    x if a is None else x[b]
                    for x, a in zip(operands, mapped, strict=True)
                )
            )
            for b in range(3)
        ]
    )


@pytest.mark.parametrize("mapped", MAPPED.values(), ids=MAPPED)
def test_vmap_over_any_axis(box_sum, mapped):
    operands = batch(mapped)
    want = loop(box_sum, operands, mapped)
    same(jax.vmap(box_sum, mapped)(*operands), want)
    for axis in (1, -1):
        moved_ = [
            x if a is None else np.moveaxis(x, 0, axis)
            for x, a in zip(operands, mapped, strict=True)
        ]
        axes = [None if a is None else axis for a in mapped]
        same(jax.vmap(box_sum, axes, out_axes=-1)(*moved_), np.moveaxis(want, 0, -1))


@pytest.mark.parametrize("inner", MAPPED.values(), ids=MAPPED)
@pytest.mark.parametrize("outer", MAPPED.values(), ids=MAPPED)
def test_nested_vmap(box_sum, inner, outer):
    operands = [
        x[tuple(slice(None) if a is not None else 0 for a in axes)]
        for x, axes in zip(inputs(3, 3), zip(outer, inner, strict=True), strict=True)
    ]
    mapped = jax.vmap(jax.vmap(box_sum, inner), outer)
    want = loop(lambda *xs: loop(box_sum, xs, inner), operands, outer)
    same(mapped(*operands), want)

    gradient = jax.vmap(jax.vmap(jax.grad(partial(loss, box_sum)), inner), outer)
    single = jax.grad(partial(loss, box_sum))
    want = loop(lambda *xs: loop(single, xs, inner), operands, outer)
    same(gradient(*operands), want)


def shapes_in(jaxpr):
    """The shapes of all that a program computes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for inner in jaxprs_in_params(eqn.params):
            yield from shapes_in(inner)


def test_boxes_of_a_shared_map_copy_no_map(box_sum):
    """Nor does the gradient: an array of a map per example does not exist."""
    maps, boxes, image_index = batch(MAPPED["boxes"])
    mapped = jax.vmap(box_sum, MAPPED["boxes"])

    def total(maps):
        return (mapped(maps, boxes, image_index) ** 2).sum()

    program = jax.make_jaxpr(jax.grad(total))(maps)
    found = {math.prod(shape) for shape in shapes_in(program.jaxpr)}
    assert maps.size in found
    assert 3 * maps.size not in found
    each = [
        jax.grad(partial(loss, box_sum))(maps, boxes[b], image_index[b])
        for b in range(3)
    ]
    same(jax.grad(total)(maps), sum(each))


# --- Sharded arrays ----------------------------------------------------------


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("specs", "sums"),
    [
        ((P("d"), P("d"), P("d")), 0),
        ((P(None, None, None, None, "d"), P(), P()), 0),
        ((P(), P(None, "d"), P(None, "d")), 1),
    ],
    ids=["groups", "channels", "RoIs"],
)
def test_sharding(box_sum, devices, kind, specs, sums):
    """Each device works on its own; a gradient over sharded RoIs is one sum."""
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(kind,))
    operands = inputs(devices)
    gradient = jax.grad(partial(loss, box_sum))
    want = box_sum(*operands), gradient(*operands)
    with jax.set_mesh(mesh):
        sharded = [
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, spec in zip(operands, specs, strict=True)
        ]
        assert moved(box_sum, *sharded) == []
        if kind is AxisType.Auto or not sums:
            assert moved(gradient, *sharded) == ["all-reduce"] * sums
        same(jax.jit(box_sum)(*sharded), want[0])
        same(jax.jit(gradient)(*sharded), want[1])


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(box_sum, devices, check_vma):
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,))
    operands = inputs()

    def total(*operands):
        return jax.lax.psum(loss(box_sum, *operands), "d")

    mapped = jax.shard_map(
        total,
        mesh=mesh,
        in_specs=(P(), P("d"), P("d")),
        out_specs=P(),
        check_vma=check_vma,
    )
    want = jax.grad(partial(loss, box_sum))(*operands)
    same(jax.jit(jax.grad(mapped))(*operands), want)


# --- Export ------------------------------------------------------------------


def test_export_with_symbolic_sizes(box_sum):
    n, h, w, k = jax.export.symbolic_shape("n, h, w, k")
    shapes = ((n, h, w, C), np.float32), ((k, 4), np.float32), ((k,), np.int32)
    step = jax.value_and_grad(partial(loss, box_sum))
    exported = jax.export.export(jax.jit(step))(
        *(jax.ShapeDtypeStruct(*shape) for shape in shapes)
    )
    operands = inputs()
    same(exported.call(*operands), step(*operands))


def test_it_has_a_place_among_the_ops(ops):
    assert set(lowering.ops()) >= {"test_box_sum", "test_box_spread"}
    with pytest.raises(ValueError, match="there is an op 'test_box_sum' already"):
        lowering.register(ops[0])
