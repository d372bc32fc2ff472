"""`jax_roipool.boxes`: NumPy and JAX alike, and the oracle."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import boxes
from tests.oracle import boxes as boxes_oracle

NAN, INF = np.nan, np.inf
NAMESPACES = (np, jnp)
CONVENTIONS = (False, True)


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
        [-3e38, 0, 3e38, 1e-30],
        [1e30, 1e30, 2e30, 3e30],
        [0, 0, 0, 0],
        [5, 5, 5, 9],
        [NAN] * 4,
    ],
    np.float32,
)

# Every function of boxes, as one of an array [n, 4] of them.
OTHERS = np.array([[2, 2, 11, 8], [0, 0, 40, 40], [60, 5, 70, 9]], np.float32)
DELTAS = np.array([[0.1, -0.2, 0.3, -0.1, 0, 0, 0.5, 0.2]], np.float32)
FUNCTIONS = {
    "areas": boxes.areas,
    "iou": lambda b, **o: boxes.iou(b, OTHERS, **o),
    "generalized_iou": lambda b, **o: boxes.generalized_iou(b, OTHERS, **o),
    "distance_iou": lambda b, **o: boxes.distance_iou(b, OTHERS, **o),
    "complete_iou": lambda b, **o: boxes.complete_iou(b, OTHERS, **o),
    "encode": lambda b, **o: boxes.encode(b, OTHERS[0], stds=np.ones(4), **o),
    "encode to": lambda b, **o: boxes.encode(OTHERS[0], b, means=np.ones(4), **o),
    "decode": lambda b, **o: boxes.decode(
        b, DELTAS, means=np.zeros(4), stds=np.ones(4), max_log_size=4.0, **o
    ),
    "convert": lambda b, **o: boxes.convert(b, "xyxy", "cxcywh", **o),
    "clip": lambda b, **o: boxes.clip(b, 10, 20, **o),
    "flip": lambda b, **o: boxes.flip(b, 20, **o),
    "remove_small": lambda b, **o: boxes.remove_small(b, 2, **o),
    "nms": lambda b, **o: boxes.nms(
        b, np.arange(len(b)) % 3, 0.5, 3, classes=np.arange(len(b)) % 2, **o
    ),
    "soft_nms": lambda b, **o: boxes.soft_nms(b, np.arange(len(b)) % 3, 0.5, 3, **o),
}
INTEGRAL = ("remove_small", "nms", "soft_nms")
by_function = pytest.mark.parametrize(
    "function", [pytest.param(f, id=name) for name, f in FUNCTIONS.items()]
)
with_gradient = pytest.mark.parametrize(
    "function",
    [pytest.param(f, id=n) for n, f in FUNCTIONS.items() if n not in INTEGRAL],
)
by_convention = pytest.mark.parametrize("inclusive", CONVENTIONS)


def assert_near(got, want):
    """`encode` and `decode` are compiled with products and sums fused, or not."""
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-5)


# --- Rules that hold for all functions ---------------------------------------


# All functions are tried on arrays of one shape: what is equal is compiled once.
BOXES = np.concatenate([random_boxes(40, 0), HOSTILE])


@by_convention
@by_function
def test_numpy_in_numpy_out_jax_in_jax_out(function, inclusive):
    for_numpy = jax.tree.leaves(function(BOXES, inclusive=inclusive))
    for_jax = jax.tree.leaves(function(jnp.asarray(BOXES), inclusive=inclusive))
    for x, y in zip(for_numpy, for_jax, strict=True):
        assert isinstance(x, np.ndarray | np.generic)
        assert isinstance(y, jax.Array)
        assert x.dtype == y.dtype
        assert x.dtype in (np.float32, np.int32, bool)
        assert_near(x, y)


@by_function
@pytest.mark.parametrize("x64", [False, True])
def test_nothing_leans_on_promotion(function, x64):
    """Neither of dtypes nor of ranks; nor does a padded NaN trip `debug_nans`."""
    a, want = jnp.asarray(BOXES), function(BOXES)
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    with strict[0], strict[1], jax.enable_x64(x64):
        got = function(a)
        jitted = jax.eval_shape(function, a)
        mapped = jax.eval_shape(jax.vmap(function), a[None])
    jax.tree.map(assert_near, got, want)
    for some in (got, jitted, mapped):
        assert jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype, some, want))
    padded = random_boxes(len(BOXES), 0)
    padded[3] = NAN
    if not any(np.isnan(x).any() for x in jax.tree.leaves(function(padded))):
        padded = jnp.asarray(padded)
        with jax.debug_nans(True):
            function(padded)


@by_function
def test_inside_vmap_inside_shard_map(devices, function):
    """Every carry of a loop varies as operands do, whichever of them does."""
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    a = np.stack([random_boxes(7, seed) for seed in range(4)])
    mapped = jax.shard_map(
        jax.vmap(function), mesh=mesh, in_specs=spec("x"), out_specs=spec("x")
    )
    got = jax.jit(mapped)(a)
    for i, one in enumerate(a):
        jax.tree.map(lambda x, y, i=i: assert_near(x[i], y), got, function(one))
    jax.eval_shape(mapped, a[:2])  # one example per device


@by_convention
@with_gradient
def test_a_masked_value_has_a_masked_gradient(function, inclusive):
    """What a box that does not count gives, and gets, is 0; never NaN."""
    good = random_boxes(12, 1)

    @jax.jit
    def results(b):
        def total(b):
            value = function(b, inclusive=inclusive)
            return jnp.where(jnp.isfinite(value), value, 0).sum(), value

        gradient, value = jax.grad(total, has_aux=True)(b)
        return gradient, jnp.isfinite(value).reshape(len(b), -1).all(axis=1)

    alone, finite = results(np.concatenate([good, good, good])[: 12 + len(HOSTILE)])
    assert finite.all()
    assert jnp.isfinite(alone).all()
    beside, finite = results(np.concatenate([good, HOSTILE]))
    np.testing.assert_allclose(beside[:12], alone[:12], rtol=1e-4, atol=1e-5)
    assert jnp.isfinite(beside[finite]).all()


@pytest.mark.parametrize("function", ["iou", "generalized_iou", "distance_iou"])
def test_a_padded_box_gives_others_no_gradient(function):
    function = getattr(boxes, function)
    good, near = np.float32([[0, 0, 10, 10]]), np.float32([2, 2, 10, 10])

    @jax.jit
    @jax.grad
    def gradient(good, others, counts):
        return jnp.where(counts, function(good, others), 0).sum()

    want = gradient(good, np.stack([near, near]), np.array([True, False]))
    assert want.any()
    for one in HOSTILE:
        padded = np.stack([near, one])
        if boxes.areas(one) == 0 or not np.isfinite(one).all():
            got = gradient(good, padded, np.array([True, False]))
            np.testing.assert_array_equal(got, want)
            if not np.isfinite(one).all():
                got = gradient(good, padded, np.array([True, True]))
                np.testing.assert_array_equal(got, want)


def test_gradients_are_those_of_differences():
    a, b = np.array([[1, 2, 9, 8.0]]), np.array([[3, 1, 12, 7.0], [20, 20, 25, 22]])
    for name in ("iou", "generalized_iou", "distance_iou"):
        jacobian = jax.jit(jax.jacobian(getattr(boxes, name)))
        got = jacobian(np.float32(a), np.float32(b))
        for i in range(4):
            moved = [a.copy(), a.copy()]
            moved[0][0, i] -= 1e-4
            moved[1][0, i] += 1e-4
            low, high = (
                [getattr(boxes_oracle, name)(m[0].astype(np.float64), x) for x in b]
                if name != "iou"
                else [boxes_oracle.exact_iou(m[0], x) for x in b]
                for m in moved
            )
            want = (np.array(high) - low) / 2e-4
            np.testing.assert_allclose(got[0, :, 0, i], want, atol=1e-4)


@by_function
def test_nothing_is_written_to_its_arguments(function):
    a = random_boxes(10, 6)
    a.flags.writeable = False
    function(a)


def test_importing_boxes_brings_neither_opencv_nor_grain():
    code = "import sys, jax_roipool.boxes; print({'cv2', 'grain'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run


# --- Overlaps ----------------------------------------------------------------


@pytest.mark.parametrize("xp", NAMESPACES)
def test_areas_by_hand(xp):
    a = xp.asarray([[0, 0, 15, 9], [5, 5, 5, 5], [8, 0, 2, 9]])
    np.testing.assert_array_equal(boxes.areas(a), [135, 0, 0])
    np.testing.assert_array_equal(boxes.areas(a, inclusive=True), [160, 1, 0])
    # x2 = x1 - 0.5 is still half a pixel wide.
    assert boxes.areas(xp.asarray([3, 3, 2.5, 3]), inclusive=True) == 0.5


@pytest.mark.parametrize("xp", NAMESPACES)
def test_iou_by_hand(xp):
    a = xp.asarray([[0, 0, 9, 9], [20, 20, 29, 29]])
    b = xp.asarray([[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9], [0, 0, 4, 4]])
    want = np.array([[1, 50 / 150, 0, 25 / 100], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(boxes.iou(a, b, inclusive=True), want)
    one = xp.asarray([0, 0, 1, 1])
    np.testing.assert_array_equal(boxes.iou(a + one, b + one), want)


@by_convention
@pytest.mark.parametrize("whole", [False, True])
def test_iou_is_the_oracles_bit_for_bit(whole, inclusive):
    a, b = random_boxes(60, 0, whole), random_boxes(50, 1, whole)
    a, b = np.concatenate([a, HOSTILE]), np.concatenate([b, HOSTILE])
    want = boxes_oracle.all_pairs(boxes_oracle.iou, a, b, inclusive)
    assert (want > 0).mean() > 0.1
    call = functools.partial(boxes.iou, inclusive=inclusive)
    got = call(a, b)
    # Where areas overflow, the oracle's is exact and rounded once.
    np.testing.assert_array_equal(got[:60, :50], want[:60, :50])
    np.testing.assert_allclose(got, want, rtol=3e-7, atol=1e-30)
    normal = np.where(got < np.finfo(np.float32).tiny, 0, got)  # as XLA has them
    for function in (call, jax.jit(call)):
        np.testing.assert_array_equal(function(jnp.asarray(a), b), normal)
    for i in range(len(a)):
        each = boxes_oracle.iou_with_all(a[i], b, inclusive)
        np.testing.assert_array_equal(each, want[i])


@by_convention
def test_iou_properties(inclusive):
    a = np.concatenate([random_boxes(80, 2), HOSTILE])
    got = boxes.iou(a, a, inclusive=inclusive)
    np.testing.assert_array_equal(got, got.T)
    assert ((got >= 0) & (got <= 1)).all()  # so none is NaN
    some = (boxes.areas(a, inclusive=inclusive) > 0) & np.isfinite(a).all(axis=1)
    np.testing.assert_array_equal(got.diagonal(), some)
    batched = boxes.iou(a[:90].reshape(3, -1, 4), a[None, :7], inclusive=inclusive)
    np.testing.assert_array_equal(batched.reshape(-1, 7), got[:90, :7])


@by_convention
@pytest.mark.parametrize("name", ["generalized_iou", "distance_iou", "complete_iou"])
def test_other_overlaps(name, inclusive):
    a = np.concatenate([random_boxes(30, 3), HOSTILE])
    want = boxes_oracle.all_pairs(getattr(boxes_oracle, name), a, a, inclusive)
    got = getattr(boxes, name)(a, a, inclusive=inclusive)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    if name != "complete_iou":  # whose arctangents are NumPy's and XLA's
        jitted = jax.jit(functools.partial(getattr(boxes, name), inclusive=inclusive))
        np.testing.assert_allclose(jitted(jnp.asarray(a), a), got, rtol=0, atol=1e-37)


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


# --- Deltas ------------------------------------------------------------------


@pytest.mark.parametrize("xp", NAMESPACES)
def test_encode_by_hand(xp):
    box, target = xp.asarray([[0, 0, 9, 19]]), xp.asarray([[5, 5, 24, 14]])
    # Centers (5, 10) and (15, 10), sizes (10, 20) and (20, 10).
    want = np.array([[1.0, 0.0, np.log(2), -np.log(2)]], np.float32)
    got = boxes.encode(box, target, inclusive=True)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    one = xp.asarray([0, 0, 1, 1])
    np.testing.assert_array_equal(boxes.encode(box + one, target + one), got)
    means, stds = [0.5, 0, 0, 0], [0.1, 0.1, 0.2, 0.2]
    got = boxes.encode(box, target, means=means, stds=stds, inclusive=True)
    want = np.array([[5.0, 0, 5 * np.log(2), -5 * np.log(2)]])
    np.testing.assert_allclose(got, want, rtol=1e-5)
    back = boxes.decode(box, got, means=means, stds=stds, inclusive=True)
    np.testing.assert_allclose(back, target, atol=1e-4)


@by_convention
@pytest.mark.parametrize("xp", NAMESPACES)
def test_decode_undoes_encode(xp, inclusive):
    r = np.random.default_rng(3)
    low = r.uniform(0, 500, (2, 200, 2))
    a, b = np.concatenate([low, low + r.uniform(1, 300, low.shape)], -1)
    got = boxes.encode(xp.asarray(a), xp.asarray(b), inclusive=inclusive)
    want = [boxes_oracle.deltas(*pair, inclusive) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    back = boxes.decode(xp.asarray(a), got, inclusive=inclusive)
    np.testing.assert_allclose(back, b, rtol=1e-4, atol=2e-3)


@by_convention
def test_encode_makes_no_nan(inclusive):
    a = np.repeat(HOSTILE, len(HOSTILE), axis=0)
    b = np.tile(HOSTILE, (len(HOSTILE), 1))
    area = boxes.areas(HOSTILE, inclusive=inclusive)
    with np.errstate(all="ignore"):
        sides = HOSTILE[:, 2:] - HOSTILE[:, :2]
    for xp in NAMESPACES:
        got = boxes.encode(xp.asarray(a), xp.asarray(b), inclusive=inclusive)
        got = np.asarray(got)
        bad = (area == 0) | ~np.isfinite(HOSTILE).all(axis=1)
        bad |= ~np.isfinite(sides).all(axis=1)
        bad = (bad[:, None] | bad).reshape(-1)
        assert not np.isnan(got).any()
        assert (got[bad] == 0).all()
        assert got[~bad].any()


def test_decode_per_class_and_clamped():
    a = np.array([[0, 0, 9, 9], [10, 10, 29, 29]], np.float32)
    deltas = np.zeros((2, 8), np.float32)
    deltas[:, 4:] = [0.5, -0.5, 100, 3]
    decode = functools.partial(boxes.decode, inclusive=True)
    for xp in NAMESPACES:
        got = decode(a, xp.asarray(deltas), max_log_size=boxes.MAX_LOG_SIZE)
        assert got.shape == (2, 8)
        np.testing.assert_allclose(got[:, :4], a, atol=1e-5)
        sizes = got[:, 6:] - got[:, 4:6] + 1
        want = np.array([[10], [20]]) * [1000 / 16, np.exp(3)]
        np.testing.assert_allclose(sizes, want, rtol=1e-4)
        assert not np.isfinite(decode(a, xp.asarray(deltas))).all()
        means = np.arange(8).reshape(2, 4) / 10
        got = decode(a, xp.zeros((2, 8)), means=means, stds=[1, 1, 1, 1])
        for k in (0, 1):
            want = decode(a, xp.zeros((2, 4)) + means[k])
            np.testing.assert_allclose(got[:, 4 * k : 4 * k + 4], want, rtol=1e-6)


@by_convention
@pytest.mark.parametrize("xp", NAMESPACES)
def test_decode_is_never_nan(xp, inclusive):
    values = [0, 1, -1, 50, -50, 88, 89, 1e4, -1e4, 1e30, -1e30, 3e38, -3e38]
    values = np.array(values, np.float32)
    deltas = np.stack(np.meshgrid(values, values), -1).reshape(-1, 2)
    deltas = np.concatenate([deltas[:, :1], deltas[:, :1], deltas[:, 1:]] * 1, 1)
    deltas = np.concatenate([deltas, deltas[:, 2:]], axis=1)
    for box in HOSTILE[np.isfinite(HOSTILE).all(axis=1)]:
        got = np.asarray(boxes.decode(box, xp.asarray(deltas), inclusive=inclusive))
        assert not np.isnan(got).any()
    out = boxes.decode(xp.asarray([[0, 0, 9, 9]]), [[0, 0, 100, 100]], inclusive=True)
    np.testing.assert_array_equal(out, [[-INF, -INF, INF, INF]])
    cut = boxes.clip(out, 10, 20, inclusive=True)
    np.testing.assert_array_equal(cut, [[0, 0, 19, 9]])


def test_the_gradient_of_a_decoded_box_that_clip_cuts():
    deltas = jnp.array([[0.1, 0.2, 100.0, 0.3]])

    def total(d):
        return boxes.clip(boxes.decode(np.float32([[0, 0, 9, 9]]), d), 50, 50).sum()

    assert jnp.isfinite(jax.grad(total)(deltas)).all()


# --- Forms, images -----------------------------------------------------------


@by_convention
@pytest.mark.parametrize("xp", NAMESPACES)
def test_convert(xp, inclusive):
    a = xp.asarray(np.float32([[2, 3, 12, 23], [0, 0, 1, 1]]))
    sizes = np.float32([[10, 20], [1, 1]]) + inclusive
    xywh = np.concatenate([a[:, :2], sizes], axis=1)
    center = np.concatenate([a[:, :2] + sizes / 2, sizes], axis=1)
    forms = {"xyxy": a, "xywh": xywh, "cxcywh": center}
    for source, value in forms.items():
        for target, want in forms.items():
            value = xp.asarray(value)
            got = boxes.convert(value, source, target, inclusive=inclusive)
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_clip(xp):
    a = xp.asarray([[-5.0, 2, 30, 40], [40, 40, 50, 50], [1, 2, 3, 4]])
    want = [[0, 2, 29, 19], [29, 19, 29, 19], [1, 2, 3, 4]]
    clip = functools.partial(boxes.clip, inclusive=True)
    np.testing.assert_array_equal(clip(a, 20, 30), want)
    np.testing.assert_array_equal(boxes.clip(a, 19, 29), want)
    two = clip(xp.concatenate([a, a], axis=1), 20, 30)
    np.testing.assert_array_equal(two, np.concatenate([want, want], axis=1))
    batch = clip(xp.stack([a, a]), np.array([[20], [41]]), np.array([[30], [41]]))
    np.testing.assert_array_equal(batch[0], want)
    np.testing.assert_array_equal(batch[1, 0], [0, 2, 30, 40])
    border = jax.grad(lambda b: boxes.clip(b, 10, 10).sum())(
        jnp.array([0.0, 5, 10, 11])
    )
    np.testing.assert_array_equal(border, [1, 1, 1, 0])  # and no half


@pytest.mark.parametrize("xp", NAMESPACES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_flip_never_wraps_and_is_an_involution(xp, dtype):
    r = np.random.default_rng(4)
    a = np.sort(r.integers(0, 100, (50, 2, 2)), axis=1).reshape(50, 4).astype(dtype)
    for inclusive, last in ((False, 100), (True, 99)):
        got = boxes.flip(xp.asarray(a), 100, inclusive=inclusive)
        assert got.dtype == np.float32
        for before, after in zip(a.tolist(), got.tolist(), strict=True):
            x1, y1, x2, y2 = before
            assert after == [last - x2, y1, last - x1, y2]
        np.testing.assert_array_equal(boxes.flip(got, 100, inclusive=inclusive), a)


def test_flip_of_fractions():
    a = random_boxes(200, 5, width=1000)
    twice = boxes.flip(boxes.flip(a, 1000), 1000)
    np.testing.assert_allclose(twice, a, rtol=0, atol=2**-14)
    per_image = boxes.flip(np.stack([a, a]), np.array([[1000], [50]]))
    np.testing.assert_array_equal(per_image[1], boxes.flip(a, 50))
    both = boxes.flip(np.concatenate([a, a + 1], axis=1), 1000)
    np.testing.assert_array_equal(both[:, 4:], boxes.flip(a + 1, 1000))


def test_remove_small():
    a = [[0, 0, 8, 8], [0, 0, 8, 1], [0, 0, 7, 9], [8, 8, 0, 0], [0, 0, NAN, 9]]
    assert boxes.remove_small(a, 8).tolist() == [True, *[False] * 4]
    want = [True, False, True, False, False]
    assert boxes.remove_small(a, 8, inclusive=True).tolist() == want
    assert boxes.remove_small(a, -1).tolist() == [True] * 3 + [False] * 2


# --- Bad input ---------------------------------------------------------------

ONES = np.ones((2, 4))
BAD = [
    (lambda: boxes.areas([1, 2, 3]), r"boxes must have shape \[..., 4\].*got \(3,\)"),
    (lambda: boxes.areas(3.0), r"boxes must have shape \[..., 4\].*got \(\)"),
    (lambda: boxes.areas(np.ones((2, 4), bool)), "boxes must be real.*bool"),
    (lambda: boxes.areas(np.ones((2, 4), complex)), "boxes must be real.*complex"),
    (lambda: boxes.areas([["a"] * 4]), "boxes must be real numbers, got dtype <U1"),
    (lambda: boxes.areas(ONES, inclusive=1), "inclusive must be a static bool, got 1"),
    (lambda: boxes.iou(np.ones(4), ONES), r"boxes.*\[..., N, 4\].*\(4,\)"),
    (lambda: boxes.iou(ONES, np.ones((2, 5))), r"others.*\(2, 5\)"),
    (lambda: boxes.encode(ONES, np.ones((2, 3))), r"targets.*\(2, 3\)"),
    (lambda: boxes.encode(np.ones(4), np.ones(4), stds=[1, 1]), r"stds.*\(2,\)"),
    (lambda: boxes.decode(ONES, np.ones((2, 6))), r"deltas.*4 \* K.*6"),
    (lambda: boxes.decode(np.ones(4), np.ones(4), means=[0]), r"means.*\(1,\)"),
    (lambda: boxes.clip(np.ones((2, 5)), 3, 3), r"boxes.*4 \* K.*\(2, 5\)"),
    (lambda: boxes.clip(ONES, "3", 3), "height must be real.*<U1"),
    (lambda: boxes.flip(ONES, True), "width must be real.*bool"),
    (lambda: boxes.remove_small(ONES, [1, 2]), r"min_size must be one number.*\(2,\)"),
    (lambda: boxes.convert(ONES, "xyxy", "xyx"), "target must be one of.*'xyx'"),
    (lambda: boxes.convert(ONES, 3, "xyxy"), "source must be one of.*3"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("xp", NAMESPACES)
def test_no_boxes(xp):
    def shape(function, *shapes):
        if xp is np:
            return function(*map(np.ones, shapes)).shape
        floats = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
        return jax.eval_shape(function, *floats).shape

    assert shape(boxes.areas, (0, 4)) == (0,)
    assert shape(boxes.iou, (0, 4), (3, 4)) == (0, 3)
    assert shape(boxes.complete_iou, (3, 4), (0, 4)) == (3, 0)
    assert shape(boxes.encode, (0, 4), (0, 4)) == (0, 4)
    assert shape(boxes.decode, (0, 4), (0, 8)) == (0, 8)
    assert shape(boxes.decode, (3, 4), (3, 0)) == (3, 0)
    assert shape(lambda b: boxes.clip(b, 5, 5), (0, 4)) == (0, 4)
    assert shape(lambda b: boxes.clip(b, 5, 5), (0, 7, 8)) == (0, 7, 8)
    assert shape(lambda b: boxes.flip(b, 5), (0, 4)) == (0, 4)
