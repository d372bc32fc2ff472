"""Boxes: NumPy and JAX alike, and the oracle; `nms` beside plain greedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool.data import boxes
from tests import data_oracle

NAN, INF = np.nan, np.inf
NAMESPACES = (np, jnp)


def random_boxes(count, seed, whole=False, height=60, width=100):
    """Boxes in an image; some are inverted, some reach out of it."""
    r = np.random.default_rng(seed)
    corners = r.uniform(-0.1, 1.1, (count, 2, 2)) * [width, height]
    mixed = r.random((count, 1, 1)) < 0.1
    result = np.where(mixed, corners, np.sort(corners, axis=1)).reshape(count, 4)
    return (np.round(result) if whole else result).astype(np.float32)


HOSTILE = np.array(
    [
        [0, 0, 9, 9],
        [9, 9, 0, 0],
        [3, 3, 2, 9],
        [3, 3, 2.5, 3],
        [NAN, 0, 9, 9],
        [0, 0, INF, 9],
        [-INF, 0, INF, 9],
        [0, 0, 3e38, 3e38],
        [-3e38, -3e38, 3e38, 3e38],
        [0, 0, 0, 0],
    ],
    np.float32,
)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_areas_by_hand(xp):
    got = boxes.areas(xp.asarray([[0, 0, 15, 9], [5, 5, 5, 5], [8, 0, 2, 9]]))
    assert isinstance(got, jax.Array) == (xp is jnp)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [160, 1, 0])
    # x2 = x1 - 0.5 is still half a pixel wide.
    assert boxes.areas(xp.asarray([3, 3, 2.5, 3])) == 0.5


@pytest.mark.parametrize("xp", NAMESPACES)
def test_iou_by_hand(xp):
    a = xp.asarray([[0, 0, 9, 9], [20, 20, 29, 29]])
    b = xp.asarray([[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9], [0, 0, 4, 4]])
    got = boxes.iou(a, b)
    assert isinstance(got, jax.Array) == (xp is jnp)
    want = np.array([[1, 50 / 150, 0, 25 / 100], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("whole", [False, True])
def test_iou_is_the_oracles_bit_for_bit(whole):
    a, b = random_boxes(60, 0, whole), random_boxes(50, 1, whole)
    want = data_oracle.overlaps(a, b)
    assert (want > 0).mean() > 0.1
    np.testing.assert_array_equal(boxes.iou(a, b), want)
    for function in (boxes.iou, jax.jit(boxes.iou)):
        np.testing.assert_array_equal(function(jnp.asarray(a), b), want)
    for i in range(10):
        np.testing.assert_array_equal(data_oracle._iou_with_all(a[i], b), want[i])


def test_iou_properties():
    a = np.concatenate([random_boxes(80, 2), HOSTILE])
    got = boxes.iou(a, a)
    np.testing.assert_array_equal(got, jax.jit(boxes.iou)(jnp.asarray(a), a))
    np.testing.assert_array_equal(got, got.T)
    assert ((got >= 0) & (got <= 1)).all()  # so none is NaN
    area = boxes.areas(a)
    some = (area > 0) & np.isfinite(area)
    np.testing.assert_array_equal(got.diagonal(), some)
    batched = boxes.iou(a.reshape(3, -1, 4), a[None, :7])
    np.testing.assert_array_equal(batched.reshape(-1, 7), got[:, :7])


def test_iou_of_other_dtypes():
    unsigned = np.array([[0, 0, 9, 9], [5, 0, 14, 9]], np.uint8)
    want = boxes.iou(unsigned.astype(np.float32), unsigned.astype(np.float32))
    for dtype in (np.uint8, np.int64, np.uint64, np.float16, np.float64, jnp.bfloat16):
        got = boxes.iou(unsigned.astype(dtype), unsigned.astype(dtype))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want)
    # Without 64-bit types JAX would wrap what NumPy gives it.
    huge = np.array([[2**32, 0, 2**32 + 2**20, 9]], np.uint64)
    assert boxes.areas(huge) == boxes.areas(jnp.asarray(huge.astype(np.float32)))
    assert boxes.iou(huge, jnp.asarray(huge, float)) == 1


@pytest.mark.parametrize("xp", NAMESPACES)
def test_encode_by_hand(xp):
    box, target = xp.asarray([[0, 0, 9, 19]]), xp.asarray([[5, 5, 24, 14]])
    # Centers (5, 10) and (15, 10), sizes (10, 20) and (20, 10).
    want = np.array([[1.0, 0.0, np.log(2), -np.log(2)]], np.float32)
    got = boxes.encode(box, target)
    assert isinstance(got, jax.Array) == (xp is jnp)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    means, stds = [0.5, 0, 0, 0], [0.1, 0.1, 0.2, 0.2]
    got = boxes.encode(box, target, means=means, stds=stds)
    want = np.array([[5.0, 0, 5 * np.log(2), -5 * np.log(2)]])
    np.testing.assert_allclose(got, want, rtol=1e-5)
    back = boxes.decode(box, got, means=means, stds=stds)
    np.testing.assert_allclose(back, target, atol=1e-4)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_decode_undoes_encode(xp):
    r = np.random.default_rng(3)
    low = r.uniform(0, 500, (2, 200, 2))
    a, b = np.concatenate([low, low + r.uniform(0, 300, low.shape)], -1)
    got = boxes.encode(xp.asarray(a), xp.asarray(b))
    want = [data_oracle.deltas(*pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    back = boxes.decode(xp.asarray(a), got)
    assert isinstance(back, jax.Array) == (xp is jnp)
    np.testing.assert_allclose(back, b, rtol=1e-4, atol=2e-3)


def test_encode_makes_no_nan():
    a = np.repeat(HOSTILE, len(HOSTILE), axis=0)
    b = np.tile(HOSTILE, (len(HOSTILE), 1))
    area = boxes.areas(HOSTILE)
    for xp in NAMESPACES:
        got = np.asarray(boxes.encode(xp.asarray(a), xp.asarray(b)))
        bad = (area == 0) | ~np.isfinite(HOSTILE).all(axis=1)
        bad = (bad[:, None] | bad).reshape(-1)
        assert not np.isnan(got).any()
        assert (got[bad] == 0).all()
        assert got[~bad].any()
    gradient = jax.grad(lambda x: boxes.encode(x, HOSTILE[0]).sum())(
        jnp.asarray(HOSTILE[:4])
    )
    assert np.isfinite(gradient).all()


def test_decode_per_class_and_clamped():
    a = np.array([[0, 0, 9, 9], [10, 10, 29, 29]], np.float32)
    deltas = np.zeros((2, 8), np.float32)
    deltas[:, 4:] = [0.5, -0.5, 100, 3]
    for xp in NAMESPACES:
        got = boxes.decode(a, xp.asarray(deltas), max_log_size=boxes.MAX_LOG_SIZE)
        assert got.shape == (2, 8)
        np.testing.assert_allclose(got[:, :4], a, atol=1e-5)
        sizes = got[:, 6:] - got[:, 4:6] + 1
        want = np.array([[10], [20]]) * [1000 / 16, np.exp(3)]
        np.testing.assert_allclose(sizes, want, rtol=1e-4)
        unclamped = boxes.decode(a, xp.asarray(deltas))
        assert not np.isfinite(unclamped).all()
        means = np.arange(8).reshape(2, 4) / 10
        got = boxes.decode(a, xp.zeros((2, 8)), means=means, stds=[1, 1, 1, 1])
        for k in (0, 1):
            want = boxes.decode(a, xp.zeros((2, 4)) + means[k])
            np.testing.assert_allclose(got[:, 4 * k : 4 * k + 4], want, rtol=1e-6)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_clip(xp):
    a = xp.asarray([[-5.0, 2, 30, 40], [40, 40, 50, 50], [1, 2, 3, 4]])
    want = [[0, 2, 29, 19], [29, 19, 29, 19], [1, 2, 3, 4]]
    got = boxes.clip(a, 20, 30)
    assert isinstance(got, jax.Array) == (xp is jnp)
    np.testing.assert_array_equal(got, want)
    two = boxes.clip(xp.concatenate([a, a], axis=1), 20, 30)
    np.testing.assert_array_equal(two, np.concatenate([want, want], axis=1))
    batch = boxes.clip(xp.stack([a, a]), np.array([[20], [41]]), np.array([[30], [41]]))
    np.testing.assert_array_equal(batch[0], want)
    np.testing.assert_array_equal(batch[1, 0], [0, 2, 30, 40])


@pytest.mark.parametrize("xp", NAMESPACES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_flip_never_wraps_and_is_an_involution(xp, dtype):
    r = np.random.default_rng(4)
    a = np.sort(r.integers(0, 100, (50, 2, 2)), axis=1).reshape(50, 4).astype(dtype)
    got = boxes.flip(xp.asarray(a), 100)
    assert isinstance(got, jax.Array) == (xp is jnp)
    assert got.dtype == np.float32
    for before, after in zip(a.tolist(), got.tolist(), strict=True):
        x1, y1, x2, y2 = before
        assert after == [99 - x2, y1, 99 - x1, y2]
    np.testing.assert_array_equal(boxes.flip(got, 100), a)


def test_flip_of_fractions():
    a = random_boxes(200, 5, width=1000)
    twice = boxes.flip(boxes.flip(a, 1000), 1000)
    np.testing.assert_allclose(twice, a, rtol=0, atol=2**-14)
    per_image = boxes.flip(np.stack([a, a]), np.array([[1000], [50]]))
    np.testing.assert_array_equal(per_image[1], boxes.flip(a, 50))
    both = boxes.flip(np.concatenate([a, a + 1], axis=1), 1000)
    np.testing.assert_array_equal(both[:, 4:], boxes.flip(a + 1, 1000))


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


def test_nms_by_hand():
    a = np.array([[0, 0, 9, 9], [0, 0, 9, 4], [20, 0, 29, 9], [0, 0, 9, 9]])
    scores = np.array([0.1, 0.9, 0.5, 0.9])
    # 1 and 3 overlap by exactly a half.
    assert_greedy(boxes.nms(a, scores, 0.5, 4), [1, 3, 2], 4)
    assert_greedy(boxes.nms(a, scores, 0.49, 4), [1, 2], 4)
    assert_greedy(boxes.nms(a, scores, 1.0, 4), [1, 3, 2, 0], 4)
    assert_greedy(boxes.nms(a, scores, 0.5, 2), [1, 3], 2)
    # A box that was suppressed suppresses nothing: 0 - 1 - 2 in a row.
    row = np.array([[0, 0, 9, 9], [4, 0, 13, 9], [8, 0, 17, 9], [50, 0, 59, 9]])
    assert_greedy(boxes.nms(row, [3, 2, 1, 0], 0.3, 4), [0, 2, 3], 4)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_is_greedy(threshold):
    for count, max_outputs in ((1, 3), (256, 20), (700, 300)):  # each is compiled
        a, scores = crowded(count, count)
        want = data_oracle.nms(a, scores, threshold, max_outputs)
        assert_greedy(boxes.nms(a, scores, threshold, max_outputs), want, max_outputs)
    for count in (0, 1, 255, 256, 257, 511, 513):
        valid = np.arange(700) < count
        want = data_oracle.nms(a, scores, threshold, 300, valid)
        assert_greedy(boxes.nms(a, scores, threshold, 300, valid), want, 300)


def test_nms_leaves_out_what_is_not_valid():
    a, scores = crowded(300, 1)
    r = np.random.default_rng(2)
    scores[r.random(300) < 0.1] = NAN
    scores[r.random(300) < 0.1] = -INF
    scores[r.random(300) < 0.1] = INF
    a[r.random(300) < 0.1, r.integers(0, 4)] = NAN
    a[7] = [30, 30, 10, 10]  # inverted
    scores[:2] = [-0.0, 0.0]  # equal
    valid = r.random(300) < 0.7
    for mask in (None, valid, np.zeros(300, bool)):
        want = data_oracle.nms(a, scores, 0.5, 200, mask)
        assert_greedy(boxes.nms(a, scores, 0.5, 200, mask), want, 200)


def test_with_enable_x64():
    """Results stay float32 and int32, and are the same."""
    a, scores = crowded(300, 1)
    with jax.enable_x64(True):
        indices, some = boxes.nms(a, scores, 0.5, 100)
        many, _ = jax.vmap(lambda b: boxes.nms(b, scores, 0.5, 100))(a[None])
        wide = jnp.asarray(a, jnp.float64)
        for function in (boxes.iou, boxes.encode):
            got = function(wide, wide)
            assert got.dtype == jnp.float32
            np.testing.assert_array_equal(got, function(a, a))
    assert (indices.dtype, many.dtype) == (jnp.int32, jnp.int32)
    want = data_oracle.nms(a, scores, 0.5, 100)
    assert_greedy((indices, some), want, 100)
    np.testing.assert_array_equal(many[0], indices)


def test_nms_under_vmap_and_jit():
    a, scores = map(np.stack, zip(*[crowded(600, s) for s in range(3)], strict=True))
    valid = np.random.default_rng(0).random((3, 600)) < [[1], [0.2], [0]]
    thresholds = np.array([0.3, 0.5, 0.7], np.float32)
    call = jax.jit(jax.vmap(lambda b, s, t, v: boxes.nms(b, s, t, 100, v)))
    indices, some = call(a, scores, thresholds, valid)
    for i in range(3):
        want = data_oracle.nms(a[i], scores[i], thresholds[i], 100, valid[i])
        assert_greedy((indices[i], some[i]), want, 100)
    assert not some[2].any()


def test_nms_of_12000_in_linear_memory():
    r = np.random.default_rng(0)
    center = r.uniform(0, [1000, 600], (12000, 2))
    half = np.exp(r.uniform(np.log(8), np.log(200), (12000, 2)))
    a = boxes.clip(np.concatenate([center - half, center + half], axis=1), 600, 1000)
    scores = r.random(12000).astype(np.float32)
    call = jax.jit(jax.vmap(lambda b, s: boxes.nms(b, s, 0.7, 2000)))
    compiled = call.lower(a[None], scores[None]).compile()
    # All pairs would be 144 MB even as bool.
    assert compiled.memory_analysis().temp_size_in_bytes < 4e6
    indices, some = compiled(a[None], scores[None])
    assert_greedy((indices[0], some[0]), data_oracle.nms(a, scores, 0.7, 2000), 2000)


def test_nms_of_nothing():
    empty = np.zeros((0, 4))
    assert_greedy(boxes.nms(empty, np.zeros(0), 0.5, 3), [], 3)
    assert_greedy(boxes.nms(np.ones((2, 4)), np.ones(2), 0.5, 0), [], 0)


def test_nms_and_gradients():
    a, scores = crowded(40, 3)

    def loss(a, scores):
        indices, valid = boxes.nms(a, scores, 0.5, 10)
        return jnp.where(valid, scores[indices], 0).sum()

    gradient = jax.grad(loss, argnums=1)(jnp.asarray(a), jnp.asarray(scores))
    want = np.zeros(40)
    want[data_oracle.nms(a, scores, 0.5, 10)] = 1
    np.testing.assert_array_equal(gradient, want)


BAD = [
    (lambda: boxes.areas([1, 2, 3]), r"boxes must have shape \[..., 4\].*got \(3,\)"),
    (lambda: boxes.areas(3.0), r"boxes must have shape \[..., 4\].*got \(\)"),
    (lambda: boxes.areas(np.ones((2, 4), bool)), "boxes must be real.*bool"),
    (lambda: boxes.areas(np.ones((2, 4), complex)), "boxes must be real.*complex"),
    (lambda: boxes.areas([["a"] * 4]), "boxes must be real numbers, got dtype <U1"),
    (lambda: boxes.iou(np.ones(4), np.ones((2, 4))), r"boxes.*\[..., N, 4\].*\(4,\)"),
    (lambda: boxes.iou(np.ones((2, 4)), np.ones((2, 5))), r"others.*\(2, 5\)"),
    (lambda: boxes.encode(np.ones((2, 4)), np.ones((2, 3))), r"targets.*\(2, 3\)"),
    (lambda: boxes.encode(np.ones(4), np.ones(4), stds=[1, 1]), r"stds.*\(2,\)"),
    (lambda: boxes.decode(np.ones((2, 4)), np.ones((2, 6))), r"deltas.*4 \* K.*6"),
    (lambda: boxes.decode(np.ones(4), np.ones(4), means=[0]), r"means.*\(1,\)"),
    (lambda: boxes.clip(np.ones((2, 5)), 3, 3), r"boxes.*4 \* K.*\(2, 5\)"),
    (lambda: boxes.clip(np.ones((2, 4)), "3", 3), "height must be real.*<U1"),
    (lambda: boxes.flip(np.ones((2, 4)), True), "width must be real.*bool"),
    (lambda: boxes.nms(np.ones((1, 2, 4)), np.ones(2), 0.5, 3), "use jax.vmap"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(3), 0.5, 3), r"scores.*\(2,\).*\(3,\)"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), 1.5, 3), "threshold.*0 to 1.*1.5"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), NAN, 3), "threshold.*nan"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), [0.5], 3), r"threshold.*\(1,\)"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), 0.5, -1), "max_outputs.*-1"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), 0.5, 2.0), "max_outputs.*2.0"),
    (lambda: boxes.nms(np.ones((2, 4)), np.ones(2), 0.5, 2, [1, 0]), "valid.*int"),
    (
        lambda: boxes.nms(np.ones((2, 4)), np.ones(2), 0.5, 2, np.ones(3, bool)),
        r"valid must have shape \(2,\), one per box, got \(3,\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_nothing_is_written_to_its_arguments():
    a = random_boxes(10, 6)
    a.flags.writeable = False
    boxes.flip(a, 100)
    boxes.clip(a, 10, 10)
    boxes.decode(a, boxes.encode(a, a))
    boxes.iou(a, a)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_no_boxes(xp):
    def shape(function, *shapes):
        if xp is np:
            return function(*map(np.ones, shapes)).shape
        floats = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
        return jax.eval_shape(function, *floats).shape

    assert shape(boxes.areas, (0, 4)) == (0,)
    assert shape(boxes.iou, (0, 4), (3, 4)) == (0, 3)
    assert shape(boxes.iou, (3, 4), (0, 4)) == (3, 0)
    assert shape(boxes.encode, (0, 4), (0, 4)) == (0, 4)
    assert shape(boxes.decode, (0, 4), (0, 8)) == (0, 8)
    assert shape(boxes.decode, (3, 4), (3, 0)) == (3, 0)
    assert shape(lambda b: boxes.clip(b, 5, 5), (0, 4)) == (0, 4)
    assert shape(lambda b: boxes.clip(b, 5, 5), (0, 7, 8)) == (0, 7, 8)
    assert shape(lambda b: boxes.flip(b, 5), (0, 4)) == (0, 4)
