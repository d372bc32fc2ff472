"""Non-maximum suppression beside plain greedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_by_hand():
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


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_greedy(threshold):
    for count, max_outputs in ((1, 3), (256, 20), (700, 300)):  # each is compiled
        a, scores = crowded(count, count)
        want = boxes_oracle.nms(a, scores, threshold, max_outputs)
        assert_greedy(nms(a, scores, threshold, max_outputs), want, max_outputs)
    for count in (0, 1, 255, 256, 257, 511, 513):
        valid = np.arange(700) < count
        want = boxes_oracle.nms(a, scores, threshold, 300, valid)
        assert_greedy(nms(a, scores, threshold, 300, valid=valid), want, 300)
        classes = np.arange(700) * 7 % (1 + count % 5) - 2
        want = boxes_oracle.nms(a, scores, threshold, 300, valid, classes, 7)
        got = nms(
            a, scores, threshold, 300, classes=classes, score_threshold=7, valid=valid
        )
        assert_greedy(got, want, 300)


@pytest.mark.parametrize("inclusive", [False, True])
def test_what_is_not_chosen(inclusive):
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
    valid = r.random(300) < 0.7
    for mask in (None, valid, np.zeros(300, bool)):
        want = boxes_oracle.nms(a, scores, 0.5, 300, mask, inclusive=inclusive)
        got = nms(a, scores, 0.5, 300, valid=mask, inclusive=inclusive)
        assert_greedy(got, want, 300)


def test_by_class_is_the_union_of_all_classes():
    """Wherever boxes lie: classes are compared, and no box is moved."""
    a, scores = crowded(500, 3)
    a = np.concatenate([a, a * np.float32(-1e6), a + np.float32(1e6)])
    a = np.concatenate(
        [np.minimum(a[:, :2], a[:, 2:]), np.maximum(a[:, :2], a[:, 2:])], 1
    )
    scores = np.concatenate([scores] * 3)
    classes = np.random.default_rng(0).integers(-(2**31), 2**31 - 1, 80)
    classes = classes[np.random.default_rng(1).integers(0, 80, len(a))]
    together, some = nms(a, scores, 0.4, len(a), classes=classes)
    apart = []
    for k in np.unique(classes):
        index, valid = nms(a, scores, 0.4, len(a), valid=classes == k)
        apart += index[valid].tolist()
    apart.sort(key=lambda i: (-scores[i], i))
    assert together[some].tolist() == apart


@pytest.mark.parametrize("dtype", [np.int8, np.uint32, np.int64, np.uint64])
def test_classes_are_equal_or_not_in_every_dtype(dtype):
    a, scores = np.float32([[0, 0, 9, 9]] * 3), np.float32([3, 2, 1])
    most = np.iinfo(dtype).max
    classes = np.array([most, most - 1, most], dtype)
    assert_greedy(nms(a, scores, 0.5, 3, classes=classes), [0, 1], 3)
    with jax.enable_x64(True):
        got = nms(jnp.asarray(a), scores, 0.5, 3, classes=jnp.asarray(classes))
        assert_greedy(got, [0, 1], 3)


def test_thresholds_are_rounded_as_comparing_in_double_does():
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


def test_with_enable_x64():
    """Results stay float32 and int32, and are the same."""
    a, scores = crowded(300, 1)
    with jax.enable_x64(True):
        indices, some = nms(a, scores, 0.5, 100)
        many, _ = jax.vmap(lambda b: nms(b, scores, 0.5, 100))(a[None])
    assert (indices.dtype, many.dtype) == (jnp.int32, jnp.int32)
    assert_greedy((indices, some), boxes_oracle.nms(a, scores, 0.5, 100), 100)
    np.testing.assert_array_equal(many[0], indices)


def test_under_vmap_and_jit():
    a, scores = map(np.stack, zip(*[crowded(600, s) for s in range(3)], strict=True))
    valid = np.random.default_rng(0).random((3, 600)) < [[1], [0.2], [0]]
    thresholds = np.array([0.3, 0.5, 0.7], np.float32)
    call = jax.jit(jax.vmap(lambda b, s, t, v: nms(b, s, t, 100, valid=v)))
    indices, some = call(a, scores, thresholds, valid)
    for i in range(3):
        want = boxes_oracle.nms(a[i], scores[i], thresholds[i], 100, valid[i])
        assert_greedy((indices[i], some[i]), want, 100)
    assert not some[2].any()


@pytest.mark.parametrize("varying", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_inside_shard_map_whichever_operand_varies(varying):
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    a, scores = crowded(300, 5)
    operands = [a, scores, np.arange(300) % 3, np.arange(300) % 7 > 0]
    operands = [jnp.stack([x, x]) for x in operands]

    def call(*operands):
        b, s, k, v = (x[0] for x in operands)
        once = nms(b, s, 0.5, 40, classes=k, valid=v)
        return jax.tree.map(lambda x: x[None], once + soft_nms(b, s, 0.5, 9))

    in_specs = tuple(spec("x") if i in varying else spec() for i in range(4))
    got = jax.shard_map(call, mesh=mesh, in_specs=in_specs, out_specs=spec("x"))(
        *operands
    )
    for x, y in zip(got, call(*operands), strict=True):
        np.testing.assert_array_equal(x, jnp.concatenate([y, y]))


def test_12000_in_linear_memory():
    r = np.random.default_rng(0)
    center = r.uniform(0, [1000, 600], (12000, 2))
    half = np.exp(r.uniform(np.log(8), np.log(200), (12000, 2)))
    a = boxes.clip(np.concatenate([center - half, center + half], axis=1), 600, 1000)
    scores = r.random(12000).astype(np.float32)
    call = jax.jit(jax.vmap(lambda b, s: nms(b, s, 0.7, 2000)))
    compiled = call.lower(a[None], scores[None]).compile()
    # All pairs would be 144 MB even as bool.
    assert compiled.memory_analysis().temp_size_in_bytes < 4e6
    indices, some = compiled(a[None], scores[None])
    assert_greedy((indices[0], some[0]), boxes_oracle.nms(a, scores, 0.7, 2000), 2000)


def test_nothing():
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
    for call in (soft_nms, jax.jit(soft_nms, static_argnums=(2, 3))):
        if call is soft_nms:
            got = soft_nms(a, scores, 0.3, 50, **options)
        else:
            got = jax.jit(lambda b, s: soft_nms(b, s, 0.3, 50, **options))(a, scores)
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
