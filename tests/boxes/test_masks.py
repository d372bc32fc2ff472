"""`jax_roipool.masks`: NumPy and JAX alike, the oracle, torch and torchvision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import masks as M
from tests.oracle import masks as oracle

NAN, INF = np.nan, np.inf
NAMESPACES = (np, jnp)
RULES = ("detectron2", "torchvision")
SIZE = (14, 20)

HOSTILE = np.array(
    [
        [NAN] * 4,
        [NAN, 0, 9, 9],
        [0, 0, INF, 9],
        [-INF, 0, INF, 9],
        [9, 9, 2, 2],
        [9, 2, 2, 9],
        [-3e38, -3e38, 3e38, 3e38],
        [-3e38, 0, 3e38, 1e-30],
        [2.9e38, 2.9e38, 3e38, 3e38],
        [5, 5, 5, 9],
        [5.5, 5.5, 5.5, 5.5],
        [0.5, 0.5, 0.50000006, 9],
        [1e-38, 1e-38, 2e-38, 2e-38],
        [-50, -50, -40, -40],
        [70, 3, 90, 9],
        [-1e6, -1e6, 1e6, 1e6],
    ],
    np.float32,
)
# By detectron2's rule: no finite sides above 0, or nowhere near the image.
NO_BOX = np.r_[0:11, 12:15]


def random_boxes(count, seed):
    """Some within the image, some across its border, some on whole and half pixels."""
    r = np.random.default_rng(seed)
    boxes = np.sort(r.uniform(-0.4, 1.4, (count, 2, 2)), axis=1) * [SIZE[1], SIZE[0]]
    boxes = boxes.reshape(count, 4) + [0, 0, 0.5, 0.5]
    boxes[::3] = np.round(2 * boxes[::3]) / 2
    return boxes.astype(np.float32)


BOXES = np.concatenate([random_boxes(12, 0), HOSTILE])
MASKS = np.random.default_rng(1).random((len(BOXES), 5, 5), np.float32)
FEATURES = np.random.default_rng(2).normal(size=(6, 9, 3)).astype(np.float32)
POINTS = np.concatenate(
    [
        np.random.default_rng(3).uniform(-0.2, 1.2, (30, 2)),
        [[0, 0], [1, 1], [0.5 / 9, 0.5 / 6], [8.5 / 9, 5.5 / 6], [-0.5 / 9, 0.3]],
        [[NAN, 0.5], [0.5, INF], [-INF, 0.5], [3e38, -3e38], [7, 0.5]],
    ]
).astype(np.float32)

# Every function, as one of arrays that differ from example to example.
FUNCTIONS = {
    "detectron2": (lambda m, b: M.paste_masks(m, b, SIZE), (MASKS, BOXES)),
    "torchvision": (
        lambda m, b: M.paste_masks(m, b, SIZE, rule="torchvision"),
        (MASKS, BOXES),
    ),
    "map": (
        lambda m, b: M.map_pasted_masks(lambda x: x.sum(axis=0), m, b, SIZE),
        (MASKS, BOXES),
    ),
    "sample": (M.point_sample, (FEATURES, POINTS)),
}
# What the others do not show of these is nightly: they compile for long.
NIGHTLY = ("torchvision", "map")
by_function = pytest.mark.parametrize(
    "name",
    [
        "detectron2",
        "sample",
        *(pytest.param(x, marks=pytest.mark.nightly) for x in NIGHTLY),
    ],
)
by_rule = pytest.mark.parametrize("rule", RULES)


def assert_near(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


# --- Rules that hold for all functions ---------------------------------------


@by_function
def test_numpy_in_numpy_out_jax_in_jax_out(name):
    function, arrays = FUNCTIONS[name]
    for array in arrays:
        assert not np.shares_memory(function(*arrays), array)
    frozen = [x.copy() for x in arrays]
    for x in frozen:
        x.flags.writeable = False
    want = function(*frozen)
    assert type(want) is np.ndarray
    assert want.dtype == np.float32
    for some in ((0,), (1,)):
        mixed = [jnp.asarray(x) if i in some else x for i, x in enumerate(frozen)]
        got = function(*mixed)
        assert isinstance(got, jax.Array)
        assert got.dtype == np.float32
        assert_near(got, want)


@by_function
def test_nothing_leans_on_promotion(name):
    """Neither of dtypes nor of ranks; nor does a padded NaN trip `debug_nans`."""
    function, arrays = FUNCTIONS[name]
    want = function(*arrays)
    arrays = [jnp.asarray(x) for x in arrays]
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    for x64 in (False, True):
        with strict[0], strict[1], jax.enable_x64(x64):
            for mapped in (function, jax.vmap(jax.vmap(function))):
                lifted = [x if mapped is function else x[None, None] for x in arrays]
                assert jax.eval_shape(mapped, *lifted).dtype == np.float32
    lifted = [x[None] for x in arrays]
    with strict[0], strict[1], jax.debug_nans(True):
        got = jax.jit(jax.vmap(function))(*lifted)
    assert_near(got[0], want)


@pytest.mark.parametrize(
    "name",
    [
        "detectron2",
        *(pytest.param(x, marks=pytest.mark.nightly) for x in ("sample", *NIGHTLY)),
    ],
)
def test_inside_shard_map(name):
    """Whichever of the arguments is the same on all devices."""
    function, arrays = FUNCTIONS[name]
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    want = function(*arrays)
    for specs in ((spec("x"), spec()), (spec(), spec("x")))[name == "detectron2" :]:
        stacked = [
            jnp.stack([jnp.asarray(x), jnp.asarray(x)]) if s else jnp.asarray(x)
            for x, s in zip(arrays, specs, strict=True)
        ]

        def local(*each, specs=specs):
            each = [x[0] if s else x for x, s in zip(each, specs, strict=True)]
            return function(*each)[None]

        got = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spec("x"))
        for some in jax.jit(got)(*stacked):
            assert_near(some, want)


@pytest.mark.nightly
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_sharded_over_masks(axis_type):
    """The devices exchange one bool: whether any number is not finite."""
    types = (getattr(jax.sharding.AxisType, axis_type),)
    mesh = jax.make_mesh((4,), ("x",), axis_types=types)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    with jax.set_mesh(mesh):
        arrays = [jax.device_put(x, sharding) for x in (MASKS, BOXES)]
        compiled = jax.jit(FUNCTIONS["detectron2"][0]).lower(*arrays).compile()
        got = compiled(*arrays)
    assert got.sharding.spec[0] == "x"
    assert_near(got, M.paste_masks(MASKS, BOXES, SIZE))
    text = compiled.as_text()
    assert "all-gather" not in text
    assert text.count("all-reduce(") == 1


@pytest.mark.parametrize("xp", NAMESPACES)
def test_dtypes(xp):
    """Floats keep theirs, computed in float32; the others, bool too, are float32."""
    masks, features = MASKS > 0.5, FEATURES.astype(np.int8)
    want = M.paste_masks(masks.astype(np.float32), BOXES, SIZE)
    sampled = M.point_sample(features.astype(np.float32), POINTS)
    for dtype in (bool, np.int8, np.uint64, np.float16, jnp.bfloat16, np.float64):
        floating = jnp.issubdtype(dtype, jnp.floating)
        tolerance = jnp.finfo(dtype).eps if floating else 0
        with jax.enable_x64(True):
            paste = functools.partial(M.paste_masks, image_size=SIZE)
            for function, first, second, right in (
                (paste, masks, BOXES, want),
                (M.point_sample, features, POINTS.astype(np.float64), sampled),
            ):
                if first is features and dtype in (bool, np.uint64):
                    continue  # they are signed
                arrays = xp.asarray(first, dtype), xp.asarray(second)
                shape = jax.eval_shape(function, *arrays)
                assert shape.dtype == (dtype if floating else np.float32)
                if xp is np or dtype == jnp.bfloat16:
                    got = function(*arrays)
                    assert got.dtype == shape.dtype
                    got = np.asarray(got, np.float64)
                    near = max(tolerance, 1e-5)
                    np.testing.assert_allclose(got, right, rtol=near, atol=1e-5)


# --- Pasting -----------------------------------------------------------------


@by_rule
@pytest.mark.parametrize("xp", NAMESPACES)
def test_pasting_is_the_oracles(rule, xp):
    want = oracle.paste_all(MASKS, BOXES, SIZE, rule)
    assert (want > 0).mean() > 0.1
    got = M.paste_masks(xp.asarray(MASKS), xp.asarray(BOXES), SIZE, rule=rule)
    assert_near(got, want)
    if rule == "detectron2":
        assert not want[12:][NO_BOX].any()
        assert not np.asarray(got)[12:][NO_BOX].any()


def test_by_hand():
    """A mask of 2 x 1 cells over 4 x 2 pixels; the border of a box is half a cell's."""
    mask = np.array([[[8.0], [16.0]]])
    box = np.array([[1, 0, 3, 4]])
    rows, columns = np.array([[6], [10], [14], [12], [4]]), [0.25, 0.75, 0.75, 0.25]
    np.testing.assert_array_equal(M.paste_masks(mask, box, (5, 4))[0], rows * columns)
    # At the pixel (5, 5) the mask's middle: the box is a point.
    point = np.array([[5.3, 5.3, 5.3, 5.3]])
    square = np.array([[[8.0, 16], [24, 32]]])
    assert not M.paste_masks(square, point, SIZE).any()
    pixel = np.zeros(SIZE)
    pixel[5, 5] = 20
    got = M.paste_masks(square, point, SIZE, rule="torchvision")
    np.testing.assert_array_equal(got[0], pixel)


TORCHVISION = {  # x1 and x2 of a box, and what becomes of a row of a mask
    (2, 6): [0, 0, 12.571428, 26.285717, 40, 53.714287, 50.285706, 0],
    (0, 8): [10.461538, 17.846153, 25.23077, 32.615383, 40, 47.384621, 54.76923]
    + [62.153847],
    (-3, 5): [32.615383, 40, 47.384621, 54.76923, 62.153847, 41.846161, 12.307678, 0],
    (1.5, 5.9): [0, 10, 22, 34, 45.999996, 58, 40, 0],
    (3.25, 3.25): [0, 0, 0, 40, 0, 0, 0, 0],
    (4, 12): [0, 0, 0, 3.076923, 10.461538, 17.846153, 25.23077, 32.615383],
    (-2.4, 1.4): [48, 64, 0, 0, 0, 0, 0, 0],
    (2, 2.5): [0, 16, 64, 0, 0, 0, 0, 0],
}


def test_numbers_of_torchvision_itself():
    """`paste_masks_in_image` of torchvision 0.29.1, a row of pixels for each mask."""
    mask = np.array([[[16.0, 32, 48, 64]]])
    got = M.paste_masks(
        np.repeat(mask, len(TORCHVISION), axis=0).repeat(4, axis=1),
        np.array([[x1, 0, x2, 9] for x1, x2 in TORCHVISION], np.float32),
        (10, 8),
        rule="torchvision",
    )
    for row, want in zip(got[:, 4], TORCHVISION.values(), strict=True):
        np.testing.assert_allclose(row, want, rtol=1e-6)


def test_corners_on_whole_pixels_do_not_move():
    """`middle - half * scale` rounded once would be just below a whole number."""
    r = np.random.default_rng(4)
    size = r.integers(1, 60, 200) * 28
    low = r.integers(-100, 200, 200)
    boxes = np.stack([low, 0 * low, low + size, size], axis=1) / 2
    got, want = (
        M.paste_masks(xp.ones((200, 1, 28)), boxes, (1, 40), rule="torchvision")
        for xp in (jnp, np)
    )
    assert_near(got, want)
    some = oracle.paste_all(np.ones((99, 1, 28)), boxes[:99], (1, 40), "torchvision")
    assert_near(want[:99], some)


@by_rule
@pytest.mark.parametrize("xp", NAMESPACES)
def test_what_is_not_finite_shows_where_it_has_a_weight(rule, xp):
    """And neither elsewhere in its image nor in others."""
    boxes = np.array([[2, 2, 12, 12], [3, 1, 13, 11], [0, 0, 20, 14]], np.float32)
    boxes, odd = np.concatenate([boxes, BOXES[3:]]), MASKS.copy()
    odd[0, 1, 2], odd[1, 2, 2] = NAN, INF
    odd[2, 0, 0], odd[2, 4, 4], odd[2, 2, 2], odd[2, 2, 3] = -INF, NAN, INF, -INF
    want = oracle.paste_all(odd, boxes, SIZE, rule)
    assert np.isnan(want).any(axis=(1, 2)).tolist() == [True, False, True] + 25 * [
        False
    ]
    got = np.asarray(M.paste_masks(xp.asarray(odd), boxes, SIZE, rule=rule))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(
        np.where(np.isfinite(got), 0, got), np.where(np.isfinite(want), 0, want)
    )
    some = np.isfinite(want)
    assert_near(got[some], want[some])


def test_a_padded_mask_may_be_nan():
    masks, boxes = MASKS.copy(), BOXES.copy()
    masks[3:], boxes[3:] = NAN, NAN
    for xp in NAMESPACES:
        got = M.paste_masks(xp.asarray(masks), xp.asarray(boxes), SIZE)
        assert_near(got[:3], M.paste_masks(MASKS[:3], BOXES[:3], SIZE))
        assert not got[3:].any()


def test_vmap_takes_one_branch():
    """Whether any number is not finite is one answer for all examples."""
    example = jnp.asarray(MASKS)[None], jnp.asarray(BOXES)[None]
    pasting = jax.make_jaxpr(jax.vmap(FUNCTIONS["detectron2"][0]))(*example)
    assert "= cond[" in str(pasting)


# --- Gradients ---------------------------------------------------------------


@functools.cache
def pasting_gradient(rule="detectron2"):
    """Of the sum of what is pasted, times weights, by masks and boxes."""

    def total(masks, boxes, weights):
        return (M.paste_masks(masks, boxes, SIZE, rule=rule) * weights).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1)))


WEIGHTS = np.random.default_rng(5).normal(size=(len(BOXES), *SIZE)).astype(np.float32)


@by_rule
def test_gradient_of_masks_is_the_transpose(rule):
    gradient, of_boxes = pasting_gradient(rule)(MASKS, BOXES, WEIGHTS)
    other = np.random.default_rng(6).normal(size=MASKS.shape)
    pasted = oracle.paste_all(other, BOXES, SIZE, rule)
    assert gradient.any(axis=(1, 2)).sum() > 10
    np.testing.assert_allclose(
        (gradient * other).sum(axis=(1, 2)),
        (pasted * WEIGHTS).sum(axis=(1, 2)),
        rtol=1e-4,
        atol=1e-4,
    )
    if rule == "torchvision":
        assert not of_boxes.any()


def test_gradient_of_boxes_is_that_of_differences():
    boxes = random_boxes(len(BOXES), 7) + np.float32(0.013)
    got = pasting_gradient()(MASKS, boxes, WEIGHTS)[1]
    step = np.random.default_rng(11).normal(size=boxes.shape) * 1e-6
    low, high = (
        (oracle.paste_all(MASKS[:16], boxes[:16] + s, SIZE) * WEIGHTS[:16]).sum((1, 2))
        for s in (-step[:16], step[:16])
    )
    want = (high - low) / 2e-6
    assert (want != 0).sum() > 8
    np.testing.assert_allclose(
        (got * step)[:16].sum(axis=1) * 1e6, want, rtol=2e-3, atol=2e-3
    )


def test_gradient_beside_odd_boxes_and_masks():
    """What gives zeros takes no gradient, and nothing that is odd gives others NaN."""
    of_masks, of_boxes = pasting_gradient()(MASKS, BOXES, WEIGHTS)
    assert np.isfinite(of_masks).all()
    assert np.isfinite(of_boxes).all()
    assert of_boxes[:12].any()
    assert not of_masks[12:][NO_BOX].any()
    assert not of_boxes[12:][NO_BOX].any()
    odd = MASKS.copy()
    odd[0, 2, 2], odd[1], odd[3, 0] = NAN, NAN, INF
    for got, want in zip(
        pasting_gradient()(odd, BOXES, WEIGHTS), (of_masks, of_boxes), strict=True
    ):
        assert np.isfinite(got).all()
        others = [i for i in range(len(odd)) if i not in (0, 1, 3)]
        assert_near(got[np.array(others)], want[np.array(others)])
        if want is of_masks:
            assert_near(got, np.where(np.isfinite(odd), want, 0))


def test_derivative_at_a_cell_is_the_right_hand_one():
    # A pixel per cell: place j is cell j. Moving the box by -d reads at j + d.
    mask, box = np.array([[[1.0, 3, 2]]]), np.array([[0, 0, 3, 1]], np.float32)
    along = jnp.array([[1.0, 0, 1, 0]])
    moved = jax.jit(jax.jacfwd(lambda d: M.paste_masks(mask, box - along * d, (1, 4))))(
        0.0
    )
    np.testing.assert_allclose(moved[0, 0], [2, -1, -2, 0], atol=1e-6)
    features = jnp.array([[[1.0], [3], [2]]])
    at = jnp.array([[0.5 / 3, 0.5], [1.5 / 3, 0.5], [2.5 / 3, 0.5]])
    slope = jax.jit(jax.grad(lambda p: M.point_sample(features, p).sum()))(at)
    np.testing.assert_allclose(slope[:2, 0], [6, -3], atol=1e-5)


# --- One mask at a time ------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_mapping_is_pasting_and_then_the_function(batch_size):
    def function(pasted):
        return {"area": (pasted >= 0.5).sum(), "row": pasted[4]}

    pasted = M.paste_masks(MASKS[:7], BOXES[:7], SIZE)
    for xp in NAMESPACES[batch_size == 3 :]:
        arrays = xp.asarray(MASKS[:7]), xp.asarray(BOXES[:7])
        got = M.map_pasted_masks(function, *arrays, SIZE, batch_size=batch_size)
        assert isinstance(got["row"], np.ndarray if xp is np else jax.Array)
        np.testing.assert_array_equal(got["area"], (pasted >= 0.5).sum(axis=(1, 2)))
        assert_near(got["row"], pasted[:, 4])


@pytest.mark.parametrize(
    "transform", [pytest.param(lambda f: f, marks=pytest.mark.nightly), jax.grad]
)
def test_mapping_does_not_hold_all_masks(transform):
    """Nor does its gradient, whatever the function keeps."""
    masks, boxes = np.ones((64, 5, 5), np.float32), np.full((64, 4), [0, 0, 99, 99.0])
    whole = 64 * 96 * 128 * 4

    def total(masks, boxes):
        return M.map_pasted_masks(
            lambda x: (jnp.sin(x) ** 2).sum(), masks, boxes, (96, 128)
        ).sum()

    lowered = jax.jit(transform(total)).lower(masks, boxes.astype(np.float32))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < whole / 4


@pytest.mark.parametrize("xp", NAMESPACES)
def test_no_masks_no_pixels(xp):
    none = xp.zeros((0, 5, 5)), xp.zeros((0, 4))
    assert M.paste_masks(*none, SIZE).shape == (0, *SIZE)
    got = M.map_pasted_masks(lambda x: (x[0], x.sum()), *none, SIZE)
    assert [x.shape for x in got] == [(0, SIZE[1]), (0,)]
    assert M.paste_masks(xp.ones((1, 2, 2)), xp.ones((1, 4)), (0, 3)).shape == (1, 0, 3)


# --- Points ------------------------------------------------------------------


@pytest.mark.parametrize("xp", NAMESPACES)
def test_points_are_the_oracles(xp):
    want = oracle.sample(FEATURES, POINTS)
    got = M.point_sample(xp.asarray(FEATURES), xp.asarray(POINTS))
    assert_near(got, want)
    assert not np.asarray(got)[-5:].any()
    np.testing.assert_allclose(got[32], FEATURES[0, 0], rtol=1e-5)


@pytest.mark.parametrize("xp", NAMESPACES)
def test_a_cell_without_weight_is_not_read(xp):
    features = np.full((4, 4, 1), NAN, np.float32)
    features[1, 1:3] = [[1], [3]]
    points = np.array([[0.375, 0.375], [0.5, 0.375], [0.625, 0.375]], np.float32)
    got = M.point_sample(xp.asarray(features), xp.asarray(points))
    np.testing.assert_array_equal(got, [[1], [2], [3]])
    assert np.isnan(
        M.point_sample(xp.asarray(features), xp.asarray(points + 0.01))
    ).all()


def test_gradient_of_points_and_features():
    weights = np.random.default_rng(8).normal(size=(len(POINTS), 3)).astype(np.float32)
    gradient = jax.jit(
        jax.grad(lambda f, p: (M.point_sample(f, p) * weights).sum(), argnums=(0, 1))
    )
    of_features, of_points = gradient(FEATURES, POINTS)
    other = np.random.default_rng(9).normal(size=FEATURES.shape)
    np.testing.assert_allclose(
        (of_features * other).sum(),
        (oracle.sample(other, POINTS) * weights).sum(),
        rtol=1e-4,
    )
    assert np.isfinite(of_points).all()
    assert not of_points[-5:].any()
    step = np.random.default_rng(12).normal(size=(30, 2)) * 1e-6
    low, high = (
        (oracle.sample(FEATURES, POINTS[:30] + s) * weights[:30]).sum(axis=1)
        for s in (-step, step)
    )
    np.testing.assert_allclose(
        (of_points[:30] * step).sum(axis=1) * 1e6, (high - low) / 2e-6, 1e-3, 1e-3
    )
    odd = np.where(FEATURES[2, 3, 1] == FEATURES, NAN, FEATURES)
    assert_near(gradient(odd, POINTS)[0], of_features)


def test_no_cells_no_points():
    for xp in NAMESPACES:
        got = M.point_sample(xp.zeros((0, 4, 2)), xp.asarray(POINTS))
        np.testing.assert_array_equal(got, np.zeros((len(POINTS), 2)))
        assert M.point_sample(xp.ones((2, 2, 3)), xp.zeros((0, 2))).shape == (0, 3)


# --- Errors ------------------------------------------------------------------


def test_errors_name_the_argument():
    paste = functools.partial(M.paste_masks, np.ones((2, 3, 3)), np.ones((2, 4)))
    for call, error, words in (
        (lambda: M.paste_masks(np.ones((3, 3)), np.ones((1, 4)), SIZE), ValueError,
         r"masks must have shape \[R, M, M\], got \(3, 3\)"),
        (lambda: M.paste_masks(np.ones((2, 3, 0)), np.ones((2, 4)), SIZE), ValueError,
         r"masks must have cells, got shape \(2, 3, 0\)"),
        (lambda: M.paste_masks(1j * np.ones((2, 3, 3)), np.ones((2, 4)), SIZE),
         TypeError, "masks must be real numbers or bool, got dtype complex128"),
        (lambda: M.paste_masks(np.ma.ones((2, 3, 3)), np.ones((2, 4)), SIZE),
         TypeError, "masks must be an array without a mask"),
        (lambda: M.paste_masks(np.ones((2, 3, 3)), np.ones((3, 4)), SIZE), ValueError,
         r"boxes must have shape \[R, 4\], a box for each of 2 masks, got \(3, 4\)"),
        (lambda: M.paste_masks(np.ones((2, 3, 3)), np.ones((2, 5)), SIZE), ValueError,
         r"boxes must have shape \[..., N, 4\]"),
        (lambda: M.paste_masks(np.ones((2, 3, 3)), np.ones((2, 4), bool), SIZE),
         TypeError, "boxes must be real numbers, got dtype bool"),
        (lambda: paste(7), TypeError, r"image_size must be a pair of static ints"),
        (lambda: paste((7, 7, 7)), TypeError, r"image_size must be a pair"),
        (lambda: paste((7, 7.0)), TypeError, "image_size must be an int, got 7.0"),
        (lambda: paste((-1, 7)), ValueError, "image_size must be from 0 to 8388608"),
        (lambda: jax.jit(lambda h: paste((h, 7)))(7), TypeError, "image_size must be"),
        (lambda: paste(SIZE, rule="caffe"), ValueError,
         r"rule must be one of \('detectron2', 'torchvision'\), got 'caffe'"),
        (lambda: M.map_pasted_masks(np.sum, np.ones((2, 3, 3)), np.ones((2, 4)), SIZE,
                                    batch_size=0),
         ValueError, "batch_size must be at least 1, got 0"),
        (lambda: M.point_sample(np.ones((2, 2)), POINTS), ValueError,
         r"features must have shape \[H, W, C\], got \(2, 2\)"),
        (lambda: M.point_sample(FEATURES, POINTS[0]), ValueError,
         r"points must have shape \[P, 2\] = \(x, y\), got \(2,\)"),
        (lambda: M.point_sample(FEATURES, POINTS > 0), TypeError,
         "points must be real numbers"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()


# --- Nightly: torch and torchvision, where they are installed ------------------


@pytest.mark.nightly
def test_detectron2s_rule_is_grid_sample():
    torch = pytest.importorskip("torch")
    boxes = random_boxes(len(BOXES), 10)
    mask, box = (torch.tensor(x, requires_grad=True) for x in (MASKS, boxes))
    x = (torch.arange(SIZE[1]) + 0.5 - box[:, :1]) / (box[:, 2:3] - box[:, :1])
    y = (torch.arange(SIZE[0]) + 0.5 - box[:, 1:2]) / (box[:, 3:] - box[:, 1:2])
    grid = [
        x[:, None, :].expand(-1, SIZE[0], -1),
        y[:, :, None].expand(-1, -1, SIZE[1]),
    ]
    pasted = torch.nn.functional.grid_sample(
        mask[:, None], 2 * torch.stack(grid, dim=-1) - 1, align_corners=False
    )[:, 0]
    (pasted * torch.tensor(WEIGHTS)).sum().backward()
    assert_near(M.paste_masks(MASKS, boxes, SIZE), pasted.detach())
    of_masks, of_boxes = pasting_gradient()(MASKS, boxes, WEIGHTS)
    assert_near(of_masks, mask.grad)
    # On whole and half pixels the side of a kink is a matter of rounding.
    some = np.arange(len(boxes)) % 3 > 0
    np.testing.assert_allclose(of_boxes[some], box.grad[some], rtol=1e-3, atol=1e-3)


@pytest.mark.nightly
def test_torchvisions_rule_is_torchvisions():
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    for cells in (5, 14, 28):
        r = np.random.default_rng(cells)
        low = r.uniform(-10, 100, (400, 2))
        boxes = np.concatenate([low, low + r.uniform(0, 80, low.shape)], axis=1)
        boxes[::2] = np.round(2 * boxes[::2]) / 2
        boxes = boxes.astype(np.float32)
        masks = r.random((400, cells, cells), np.float32)
        want = [  # one by one: it fails on boxes beyond the image
            roi_heads.paste_masks_in_image(
                torch.tensor(m[None, None]), torch.tensor(b[None]), (120, 160)
            )[0, 0]
            for m, b in zip(masks, boxes, strict=True)
            if (b[:2] < [150, 110]).all() and (b[2:] > 5).all()
        ]
        kept = (boxes[:, :2] < [150, 110]).all(1) & (boxes[:, 2:] > 5).all(1)
        for xp in NAMESPACES:
            got = M.paste_masks(
                xp.asarray(masks[kept]), boxes[kept], (120, 160), rule="torchvision"
            )
            assert_near(got, np.stack(want))


@pytest.mark.nightly
def test_points_are_those_of_grid_sample():
    torch = pytest.importorskip("torch")
    points = POINTS[:35]
    features = torch.tensor(FEATURES.transpose(2, 0, 1)[None])
    grid = torch.tensor(2 * points - 1)[None, None]
    want = torch.nn.functional.grid_sample(features, grid, align_corners=False)
    assert_near(M.point_sample(FEATURES, points), want[0, :, 0].T)
