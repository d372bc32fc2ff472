"""Non-maximum suppression beside plain greedy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_roipool
from jax_roipool import boxes
from jax_roipool.boxes import nms, soft_nms
from tests.oracle import boxes as boxes_oracle

NAN, INF = np.nan, np.inf


def crowded(count, seed):
    """Boxes that overlap much, scores with ties: many are suppressed."""
    r = np.random.default_rng(seed)
    center = r.integers(0, 5, (count, 2)) * 30 + r.normal(0, 4, (count, 2))
    half = r.uniform(8, 16, (count, 2))
    result = np.concatenate([center - half, center + half], axis=1)
    return result.astype(np.float32), r.integers(0, 50, count).astype(np.float32)


def assert_greedy(got, want, max_outputs):
    indices, valid = map(np.asarray, got)
    assert indices.dtype == np.int32
    assert indices.shape == valid.shape == (max_outputs,)
    np.testing.assert_array_equal(indices[: len(want)], want)
    assert (indices[len(want) :] == -1).all()
    np.testing.assert_array_equal(valid, np.arange(max_outputs) < len(want))


# Each program is slow to compile for plain JAX; it meets the others nightly.
plain_jax_nightly = pytest.mark.plain_jax_in_ci(implementation=())


@plain_jax_nightly
def test_by_hand(implementation):
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10], [0, 0, 10, 10]])
    scores = np.array([0.1, 0.9, 0.5, 0.9])
    # 1 and 3 overlap by exactly a half.
    assert_greedy(nms(a, scores, 0.5, 4), [1, 3, 2], 4)
    assert_greedy(nms(a, scores, 0.49, 4), [1, 2], 4)
    assert_greedy(nms(a, scores, 1, 4), [1, 3, 2, 0], 4)
    assert_greedy(nms(a, scores, 0.5, 2), [1, 3], 2)
    assert_greedy(nms(a - [0, 0, 1, 1], scores, 0.5, 4, inclusive=True), [1, 3, 2], 4)
    # A box that was suppressed suppresses nothing: 0 - 1 - 2 in a row.
    row = np.array([[0, 0, 10, 9], [4, 0, 14, 9], [8, 0, 18, 9], [50, 0, 60, 9]])
    assert_greedy(nms(row, [3, 2, 1, 0], 0.3, 4), [0, 2, 3], 4)
    assert_greedy(nms(row, [3, 2, 1, 0], 0.3, 4, classes=[0, 1, 0, 1]), [0, 1, 2, 3], 4)
    assert_greedy(nms(row, [3, 2, 1, 0], 0.3, 4, score_threshold=1), [0, 2], 4)


@functools.cache
def crowds(threshold):
    """Calls by arguments and options, and what they must give."""
    calls = []
    for count, max_outputs in ((1, 3), (256, 20)):  # each is compiled
        calls.append(((*crowded(count, count), threshold, max_outputs), {}))
    a, scores = crowded(700, 700)
    for count in (0, 1, 255, 256, 257, 511, 513, 700):
        valid = np.arange(700) < count
        for classes in (np.zeros(700, int), np.arange(700) * 7 % (1 + count % 5) - 2):
            options = {"valid": valid, "classes": classes}
            options["score_threshold"] = 7 if classes.any() else -INF
            calls.append(((a, scores, threshold, 300), options))
    return [(*call, greedy(*call[0], **call[1])) for call in calls]


def greedy(*args, score_threshold=None, **options):
    return boxes_oracle.nms(*args, least=score_threshold, **options)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_greedy(implementation, threshold):
    for args, options, want in crowds(threshold):
        assert_greedy(nms(*args, **options), want, args[3])


@functools.cache
def odd_ones(inclusive):
    """Boxes and scores, some of them none, masks, and what is chosen with each."""
    a, scores = crowded(300, 1)
    r = np.random.default_rng(2)
    scores[r.random(300) < 0.1] = NAN
    scores[r.random(300) < 0.1] = -INF
    scores[r.random(300) < 0.1] = INF
    a[r.random(300) < 0.1, r.integers(0, 4)] = NAN
    a[7] = [30, 30, 10, 10]  # inverted
    a[8:11] = [-3e38, -3e38, 3e38, 3e38]
    a[11:13] = [-3e38, 0, 3e38, 1e-30]
    a[13:15] -= np.float32(1e6)
    scores[:2] = [-0.0, 0.0]  # equal
    masks = (np.ones(300, bool), r.random(300) < 0.7, np.zeros(300, bool))
    return (a, scores), [
        (mask, boxes_oracle.nms(a, scores, 0.5, 300, mask, inclusive=inclusive))
        for mask in masks
    ]


@pytest.mark.parametrize("inclusive", [False, True])
def test_what_is_not_chosen(implementation, inclusive):
    (a, scores), wanted = odd_ones(inclusive)
    for mask, want in wanted:
        got = nms(a, scores, 0.5, 300, valid=mask, inclusive=inclusive)
        assert_greedy(got, want, 300)


@functools.cache
def of_any_size():
    """Sets of boxes along two axes of any lengths, touching, inverted, degenerate."""
    r = np.random.default_rng(5)
    size = (40, 50, 2)
    low = r.choice([0, 1, 2, -3, 10, -1e6, 1e19, -2e19, -3.4e38, NAN], size)
    length = r.choice([0, 1, 2, 3, 7, -1, 1e6, 1e18, 3e19, 2e38, INF], size)
    # Lengths that do not make overlaps tie with the threshold.
    low, length = low * (1 + r.random(size) / 64), length * (1 + r.random(size) / 64)
    a = np.concatenate([low, low + length], axis=2)
    copies = r.integers(0, 50, (40, 50))
    a = np.take_along_axis(a, copies[..., None], 1)
    with np.errstate(over="ignore"):
        a = a.astype(np.float32)
    scores = r.choice([0, -0.0, 1, 2, 3, 1e38, NAN, INF, -INF], (40, 50))
    scores = scores.astype(np.float32)
    classes = r.integers(0, 3, (40, 50)) * r.integers(0, 2, (40, 1))
    thresholds = r.choice(np.float32([0.1937, 0.4531, 0.7219, 0.0123]), 40)
    operands = (a, scores, thresholds, classes.astype(np.int32))
    wanted = []
    for b, s, t, k in zip(*operands, strict=True):
        wanted.append(boxes_oracle.nms(b, s, t, 50, classes=k))
    return operands, wanted


def test_boxes_of_any_size(implementation):
    operands, wanted = of_any_size()
    assert sum(map(len, wanted)) > 400
    call = jax.vmap(lambda b, s, t, k: nms(b, s, t, 50, classes=k))
    for *got, want in zip(*jax.jit(call)(*operands), wanted, strict=True):
        assert_greedy(got, want, 50)


def test_subnormal_numbers_are_numbers(kernel_implementation):
    """XLA on CPU takes them for zero, in scores and in areas."""
    a = np.float32([[0, 0, 1e-20, 1e-20]] * 3 + [[0, 0, 3e-21, 1e-20]])
    scores = np.float32([1e-40, 2e-40, -3e-40, 3e-40])
    assert_greedy(nms(a, scores, 0.5, 4), [3, 1], 4)
    assert_greedy(nms(a, scores, 0.5, 4, classes=[1, 2, 3, 4]), [3, 1, 0, 2], 4)


@plain_jax_nightly
def test_by_class_is_the_union_of_all_classes(implementation):
    """Wherever boxes lie: classes are compared, and no box is moved."""
    a, scores = crowded(150, 3)
    a = np.concatenate([a, a * np.float32(-1e6), a + np.float32(1e6)])
    a = np.concatenate(
        [np.minimum(a[:, :2], a[:, 2:]), np.maximum(a[:, :2], a[:, 2:])], 1
    )
    scores = np.concatenate([scores] * 3)
    classes = np.random.default_rng(0).integers(-(2**31), 2**31 - 1, 80)
    classes = classes[np.random.default_rng(1).integers(0, 80, len(a))]
    together, some = nms(a, scores, 0.4, len(a), classes=classes)
    each = np.unique(classes)
    one = jax.jit(jax.vmap(lambda v: nms(a, jnp.asarray(scores), 0.4, 450, valid=v)))
    index, valid = map(np.asarray, one(classes == each[:, None]))
    apart = sorted(index[valid].tolist(), key=lambda i: (-scores[i], i))
    assert len(apart) > 200
    assert together[some].tolist() == apart


@plain_jax_nightly
def test_one_float_above_the_threshold_is_above_it(implementation):
    """And equal is not: no product instead of the quotient."""
    r = np.random.default_rng(0)
    whole = r.integers(2, 4000, 100)
    part = np.maximum(whole * r.random(100), 1).astype(int)
    a = np.zeros((100, 2, 4), np.float32)
    a[:, 0, 2], a[:, 1, 2], a[..., 3] = whole, part, r.integers(1, 9, (100, 1))
    overlap = np.float32(part) / np.float32(whole)
    call = jax.jit(jax.vmap(lambda b, t: nms(b, np.float32([2, 1]), t, 2)[1].sum()))
    assert (call(a, overlap) == 2).all()
    assert (call(a, np.nextafter(overlap, np.float32(0))) == 1).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint32, np.int64, np.uint64])
def test_classes_are_equal_or_not_in_every_dtype(kernels, dtype):
    a, scores = np.float32([[0, 0, 9, 9]] * 3), np.float32([3, 2, 1])
    most = np.iinfo(dtype).max
    classes = np.array([most, most - 1, most], dtype)
    assert_greedy(nms(a, scores, 0.5, 3, classes=classes), [0, 1], 3)
    with jax.enable_x64(True):
        got = nms(jnp.asarray(a), scores, 0.5, 3, classes=jnp.asarray(classes))
        assert_greedy(got, [0, 1], 3)


@plain_jax_nightly
def test_thresholds_are_rounded_as_comparing_in_double_does(implementation):
    """At a tie of the nearest float32, which lies above 0.3 and below 0.7."""
    for numerator, tenths, suppressed in ((3, 0.3, True), (7, 0.7, False)):
        a = np.float32([[0, 0, 10, 1], [0, 0, numerator, 1]])
        overlap = boxes.iou(a[:1], a[1:])[0, 0]
        assert (float(overlap) > tenths) == suppressed
        scores = np.float32([1, 0.5])
        want = [0] if suppressed else [0, 1]
        for threshold in (tenths, np.float64(tenths)):
            assert_greedy(nms(a, scores, threshold, 2), want, 2)
        for threshold in (np.float32(tenths), jnp.float32(tenths)):
            assert_greedy(nms(a, scores, threshold, 2), [0, 1], 2)
        with jax.enable_x64(True):
            assert_greedy(nms(a, scores, jnp.float64(tenths), 2), want, 2)
    scores = np.float32([0.3, 0.7])
    apart = np.float32([[0, 0, 1, 1], [5, 5, 6, 6]])
    assert_greedy(nms(apart, scores, 0.5, 2, score_threshold=0.7), [1], 2)
    assert_greedy(nms(apart, scores, 0.5, 2, score_threshold=0.3), [1, 0], 2)


def test_with_enable_x64(lowered_to):
    """Results stay float32 and int32, and are the same."""
    a, scores = crowded(300, 1)
    with jax.enable_x64(True):
        indices, some = jax.vmap(lambda b: nms(b, scores, 0.5, 100))(a[None])
    assert indices.dtype == jnp.int32
    want = boxes_oracle.nms(a, scores, 0.5, 100)
    assert_greedy((indices[0], some[0]), want, 100)


def several(count, boxes):
    """Boxes, scores, thresholds and masks of some images; the last has no box."""
    some = [crowded(boxes, seed) for seed in range(count)]
    a, scores = map(np.stack, zip(*some, strict=True))
    share = np.arange(count - 1, -1, -1)[:, None] / count
    valid = np.random.default_rng(0).random((count, boxes)) < share
    thresholds = np.linspace(0.3, 0.7, count, dtype=np.float32)
    return a, scores, thresholds, valid


def assert_each(got, operands, max_outputs):
    for *one, a, scores, threshold, valid in zip(*got, *operands, strict=True):
        want = boxes_oracle.nms(a, scores, threshold, max_outputs, valid)
        assert_greedy(one, want, max_outputs)


def of_each(b, s, t, v):
    return jax.vmap(lambda b, s, t, v: nms(b, s, t, 30, valid=v))(b, s, t, v)


def test_under_vmap_and_jit(implementation):
    operands = several(3, 200)
    assert_each(jax.jit(of_each)(*operands), operands, 30)


def test_vmap_over_some_operands_and_any_axis(kernels):
    a, scores, _, _ = several(3, 60)
    call = jax.vmap(lambda t: jax.vmap(lambda b, s: nms(b, s, t, 30), (1, None))(a, s0))
    s0, a = scores[0], np.moveaxis(a, 0, 1)
    indices, some = jax.jit(call)(np.float32([0.3, 0.7]))
    for i, j in np.ndindex(2, 3):
        want = boxes_oracle.nms(a[:, j], s0, np.float32([0.3, 0.7])[i], 30)
        assert_greedy((indices[i, j], some[i, j]), want, 30)


def calls_of(function, *operands):
    text = jax.jit(function).lower(*operands).as_text()
    return text.count("custom_call @jax_roipool_nms")


def test_vmap_is_one_call(kernels):
    operands = several(3, 20)
    a, scores = operands[:2]
    assert calls_of(of_each, *operands) == 1
    twice = [x[None] for x in operands]
    assert calls_of(jax.vmap(of_each), *twice) == 1
    assert calls_of(lambda b, s: nms(b, s, 0.5, 9), a[0], scores[0]) == 1


@pytest.mark.parametrize("kind", list(jax.sharding.AxisType)[:2])
@pytest.mark.parametrize("axis", [0, 1], ids=["images", "boxes"])
def test_sharded(devices, kernels, kind, axis):
    """Images stay where they are; the boxes of one are gathered."""
    spec = [None, None]
    spec[axis] = "x"
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
    a, scores, thresholds, valid = operands = several(8, 64)
    with jax.set_mesh(mesh):
        sharding = jax.NamedSharding(mesh, jax.P(*spec))
        placed = [jax.device_put(x, sharding) for x in (a, scores, valid)]
        t = jax.device_put(thresholds, jax.NamedSharding(mesh, jax.P(spec[0])))
        compiled = jax.jit(of_each).lower(placed[0], placed[1], t, placed[2]).compile()
        got = compiled(placed[0], placed[1], t, placed[2])
    assert ("all-gather" in compiled.as_text()) == (axis == 1)
    assert_each(got, operands, 30)


@pytest.mark.parametrize("varying", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_inside_shard_map_whichever_operand_varies(devices, varying):
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    a, scores = crowded(60, 5)
    operands = [a, scores, np.arange(60) % 3, np.arange(60) % 7 > 0]
    operands = [jnp.stack([x, x]) for x in operands]

    def call(*operands):
        b, s, k, v = (x[0] for x in operands)
        once = nms(b, s, 0.5, 40, classes=k, valid=v)
        if varying in ((0,), (1,)):  # it has these two
            once += soft_nms(b, s, 0.5, 9)
        return jax.tree.map(lambda x: x[None], once)

    in_specs = tuple(spec("x") if i in varying else spec() for i in range(4))
    got = jax.shard_map(call, mesh=mesh, in_specs=in_specs, out_specs=spec("x"))(
        *operands
    )
    for x, y in zip(got, call(*operands), strict=True):
        np.testing.assert_array_equal(x, jnp.concatenate([y, y]))


@pytest.mark.plain_jax_in_ci(lowered_to=())
def test_exported(lowered_to):
    """With any number of images and of boxes."""
    g, n = jax.export.symbolic_shape("g, n")
    shapes = [((g, n, 4), np.float32), ((g, n), np.float32), ((g,), np.float32)]
    exported = jax.export.export(
        jax.jit(of_each), disabled_checks=jax_roipool.export_disabled_checks()
    )(*(jax.ShapeDtypeStruct(*x) for x in [*shapes, ((g, n), bool)]))
    again = jax.export.deserialize(exported.serialize())
    for sizes in ((2, 70), (3, 33)):
        operands = several(*sizes)
        assert_each(again.call(*operands), operands, 30)


def test_strict_promotion(kernels):
    a, scores = crowded(40, 1)
    want = boxes_oracle.nms(a, scores, 0.5, 9, classes=np.arange(40) % 2, least=3)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        for as_ in (np.asarray, jnp.asarray):
            options = {"classes": as_(np.arange(40) % 2), "score_threshold": 3}
            assert_greedy(nms(as_(a), as_(scores), 0.5, 9, **options), want, 9)


@functools.cache
def proposals():
    r = np.random.default_rng(0)
    center = r.uniform(0, [1000, 600], (12000, 2))
    half = np.exp(r.uniform(np.log(8), np.log(200), (12000, 2)))
    a = boxes.clip(np.concatenate([center - half, center + half], axis=1), 600, 1000)
    scores = r.random(12000).astype(np.float32)
    return a, scores, boxes_oracle.nms(a, scores, 0.7, 2000)


def test_12000_in_linear_memory(implementation):
    a, scores, want = proposals()
    call = jax.jit(jax.vmap(lambda b, s: nms(b, s, 0.7, 2000)))
    compiled = call.lower(a[None], scores[None]).compile()
    # All pairs would be 144 MB even as bool.
    assert compiled.memory_analysis().temp_size_in_bytes < 8e6
    indices, some = compiled(a[None], scores[None])
    assert_greedy((indices[0], some[0]), want, 2000)


def test_nothing(lowered_to):
    empty = np.zeros((0, 4))
    assert_greedy(nms(empty, np.zeros(0), 0.5, 3), [], 3)
    assert_greedy(nms(np.ones((2, 4)), np.ones(2), 0.5, 0), [], 0)
    indices, scores, valid = soft_nms(empty, np.zeros(0), 0.5, 3)
    assert (indices.tolist(), scores.tolist(), valid.any()) == (
        [-1] * 3,
        [0] * 3,
        False,
    )


def test_no_gradient():
    a, scores = crowded(40, 3)

    def loss(a, scores):
        indices, valid = nms(a, scores, 0.5, 10)
        return jnp.where(valid, scores[indices], 0).sum()

    gradient = jax.grad(loss, argnums=1)(jnp.asarray(a), jnp.asarray(scores))
    want = np.zeros(40)
    want[boxes_oracle.nms(a, scores, 0.5, 10)] = 1
    np.testing.assert_array_equal(gradient, want)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("by_class", [False, True])
def test_soft(method, by_class):
    a, _ = crowded(60, 4)
    scores = np.random.default_rng(0).permutation(60).astype(np.float32) / 60
    least = 0.2 if by_class else 0.05
    classes = np.arange(60) % 3 if by_class else None
    want = boxes_oracle.soft_nms(a, scores, 0.3, 50, method, 0.5, least, classes)
    assert 10 < len(want) < 50
    options = dict(method=method, min_score=least, classes=classes)

    def call(b, s):
        return soft_nms(b, s, 0.3, 50, **options)

    for function in (call,) if by_class else (call, jax.jit(call)):
        got = function(a, scores)
        indices, found, valid = map(np.asarray, got)
        assert valid.sum() == len(want)
        assert indices[valid].tolist() == [i for i, _ in want]
        np.testing.assert_allclose(found[valid], [s for _, s in want], rtol=1e-5)
        assert (indices[~valid] == -1).all()
        assert (found[~valid] == 0).all()


ONES, TWO = np.ones((2, 4)), np.ones(2)
BAD = [
    (lambda: nms(np.ones((1, 2, 4)), TWO, 0.5, 3), "use jax.vmap"),
    (lambda: nms(ONES, np.ones(3), 0.5, 3), r"scores.*\(2,\).*\(3,\)"),
    (lambda: nms(ONES, TWO, 1.5, 3), "iou_threshold.*0 to 1.*1.5"),
    (lambda: nms(ONES, TWO, NAN, 3), "iou_threshold.*nan"),
    (lambda: nms(ONES, TWO, np.float32(NAN), 3), "iou_threshold.*nan"),
    (lambda: nms(ONES, TWO, "0.5", 3), "iou_threshold must be a real number.*'0.5'"),
    (lambda: nms(ONES, TWO, [0.5], 3), r"iou_threshold.*\(1,\)"),
    (lambda: nms(ONES, TWO, 0.5, -1), "max_outputs.*-1"),
    (lambda: nms(ONES, TWO, 0.5, 2.0), "max_outputs.*2.0"),
    (lambda: nms(ONES, TWO, 0.5, 2, valid=[1, 0]), "valid must be bool.*int"),
    (lambda: nms(ONES, TWO, 0.5, 2, classes=[0.0, 1]), "classes must be ints.*float"),
    (lambda: nms(ONES, TWO, 0.5, 2, classes=[0]), r"classes.*\(2,\).*\(1,\)"),
    (lambda: nms(ONES, TWO, 0.5, 2, score_threshold=NAN), "score_threshold.*nan"),
    (
        lambda: nms(ONES, TWO, 0.5, 2, valid=np.ones(3, bool)),
        r"valid must have shape \(2,\), one per box, got \(3,\)",
    ),
    (lambda: soft_nms(ONES, TWO, 0.5, 2, method="hard"), "method.*'hard'"),
    (lambda: soft_nms(ONES, TWO, 0.5, 2, sigma=0), "sigma.*above 0.*0"),
    (lambda: soft_nms(ONES, TWO, 0.5, 2, min_score=NAN), "min_score.*nan"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
