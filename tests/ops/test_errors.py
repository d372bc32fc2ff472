"""Bad arguments: every error names the argument, what was expected, what came."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_align, roi_pool, valid_rois
from tests import table

F4 = np.zeros((2, 8, 9, 3), np.float32)
F3 = F4[0]
R5 = np.zeros((4, 5), np.float32)
NR4 = np.zeros((2, 4, 4), np.float32)
R4 = NR4[0]

# features, rois -> words
SHAPES = {
    "rank 2 features": (
        (F3[0], R5),
        r"one of these shapes.*got features \[9, 3\]",
    ),
    "rank 5 features": ((F4[None], R5), r"got features \[1, 2, 8, 9, 3\]"),
    "rank 1 rois": ((F4, R5[0]), r"one of these shapes.*rois \[5\]"),
    "rank 4 rois": ((F4, NR4[None]), r"rois \[1, 2, 4, 4\]"),
    "one image, boxes of many": ((F3, NR4), r"one of these shapes"),
    "boxes without an index": (
        (F4, R4),
        r"rois must have 5 numbers each.*rois \[4, 4\].*without an image index",
    ),
    "index with one image": ((F3, R5), r"rois must have 4 numbers each"),
    "index per image": (
        (F4, np.zeros((2, 4, 5))),
        r"rois must have 4 numbers each.*\[2, 4, 5\]",
    ),
    "other number of images": (
        (F4, np.zeros((3, 4, 4))),
        r"as many images as features.*\[2, 8, 9, 3\].*\[3, 4, 4\]",
    ),
}


@pytest.mark.parametrize("function", table.FUNCTIONS)
@pytest.mark.parametrize(("args", "words"), SHAPES.values(), ids=SHAPES)
def test_shapes(function, args, words):
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        function(*args, 2)
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        valid_rois(*args)
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        jax.eval_shape(lambda f, r: function(f, r, 2), *args)


def test_shape_errors_speak_the_layout():
    with pytest.raises(ValueError, match=r"\[N, C, H, W\] and rois \[K, 5\]"):
        roi_pool(F3[0], R5, 2, layout="NCHW")
    with pytest.raises(ValueError, match=r"\[N, H, W, C\] and rois \[K, 5\]"):
        roi_pool(F3[0], R5, 2)


@pytest.mark.parametrize(
    "dtype", ["int32", "uint8", "bool", "complex64", "float8_e4m3fn"]
)
def test_dtype_of_features(dtype):
    features = jnp.zeros(F4.shape, dtype)
    with pytest.raises(
        TypeError, match=rf"features must be one of float16.*got {dtype}"
    ):
        roi_pool(features, R5, 2)


@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_dtype_of_rois(dtype):
    with pytest.raises(TypeError, match=rf"rois must be of a real dtype.*{dtype}"):
        roi_pool(F4, jnp.zeros((4, 5), dtype), 2)


@pytest.mark.parametrize(
    ("rois", "words"),
    [
        ([R4, R4], r"(?s)got a list of boxes.*jnp.concatenate.*jnp.insert"),
        ((R4, R4), r"got a list of boxes"),
        (None, r"rois must be an array, got None"),
        ("boxes", r"rois must be an array, got 'boxes'"),
    ],
)
def test_rois_that_are_no_array(rois, words):
    with pytest.raises(TypeError, match=words):
        roi_pool(F4, rois, 2)


def test_the_advice_for_lists_works():
    rois = [jnp.ones((2, 4)), jnp.ones((3, 4))]
    rois = jnp.concatenate(
        [jnp.insert(boxes, 0, i, axis=1) for i, boxes in enumerate(rois)]
    )
    np.testing.assert_array_equal(rois[:, 0], [0, 0, 1, 1, 1])
    assert roi_pool(F4, rois, 2).shape == (5, 2, 2, 3)


def test_features_that_are_no_array():
    with pytest.raises(TypeError, match=r"features\[0\] must be an array, got a list"):
        roi_pool([[F3]], R5, 2, [1.0])
    with pytest.raises(TypeError, match="features must be an array, got 3"):
        roi_pool(3, R5, 2)


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (0, ValueError, "at least 1.*got 0"),
        ((2, 0), ValueError, r"at least 1.*got \(2, 0\)"),
        (-3, ValueError, "at least 1.*got -3"),
        (2**24 + 1, ValueError, r"at most 2\*\*24.*got 16777217"),
        (2.0, TypeError, "an int or a pair of ints.*got 2.0"),
        ((2, 2.5), TypeError, "an int or a pair of ints"),
        ("7", TypeError, "an int or a pair of ints.*got '7'"),
        (None, TypeError, "got None"),
        (True, TypeError, "got True"),
        ((1, 2, 3), ValueError, r"pair \(height, width\).*\(1, 2, 3\)"),
        ((), ValueError, r"pair \(height, width\)"),
        (np.array([2, 2]), TypeError, r"static.*array of shape \(2,\)"),
        (jnp.int32(2), TypeError, r"static.*array of shape \(\)"),
        ((2, jnp.int32(2)), TypeError, "static.*array"),
    ],
)
def test_output_size(size, error, words):
    with pytest.raises(error, match=f"output_size must.*{words}"):
        roi_pool(F4, R5, size)


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        (0.0, ValueError, "above 0.*got 0.0"),
        (-0.5, ValueError, "above 0.*got -0.5"),
        (float("nan"), ValueError, "finite.*got nan"),
        (float("inf"), ValueError, "finite.*got inf"),
        (1e39, ValueError, "as a float32.*got 1e[+]39"),
        (1e-60, ValueError, "above 0 as a float32"),
        ((0.5, 0.0), ValueError, "above 0"),
        ("1/16", TypeError, "a number or a pair.*got '1/16'"),
        (1j, TypeError, "a number or a pair"),
        (None, TypeError, "got None"),
        (True, TypeError, "got True"),
        ((1.0, 2.0, 3.0), ValueError, "pair"),
        (jnp.float32(0.5), TypeError, "static.*array"),
        (10**400, ValueError, "finite"),
    ],
    ids=lambda x: repr(x)[:20],
)
def test_spatial_scale(scale, error, words):
    with pytest.raises(error, match=f"spatial_scale must.*{words}"):
        roi_pool(F4, R5, 2, scale)


def test_numbers_of_other_kinds_are_fine():
    import fractions

    for size in (np.int64(2), (np.int8(2), 2), [2, 2]):
        assert roi_pool(F4, R5, size).shape == (4, 2, 2, 3)
    for scale in (1, np.float64(0.5), fractions.Fraction(1, 16), [1, 0.5]):
        assert roi_pool(F4, R5, 2, scale).shape == (4, 2, 2, 3)


def test_traced_statics():
    with pytest.raises(TypeError, match=r"output_size.*static.*static_argnames"):
        jax.jit(lambda size: roi_pool(F4, R5, size))(2)
    with pytest.raises(TypeError, match=r"output_size.*traced"):
        jax.jit(lambda size: roi_pool(F4, R5, (2, size)))(2)
    with pytest.raises(TypeError, match=r"spatial_scale.*traced"):
        jax.jit(lambda scale: roi_pool(F4, R5, 2, scale))(0.5)


@pytest.mark.parametrize("layout", ["nhwc", "CHWN", None, 0, ("NHWC",), ["NHWC"]])
def test_layout(layout):
    for call in (
        lambda: roi_pool(F4, R5, 2, layout=layout),
        lambda: valid_rois(F4, R5, layout=layout),
    ):
        with pytest.raises(ValueError, match='layout must be "NHWC" or "NCHW"'):
            call()


@pytest.mark.parametrize("dtype", ["int32", "float32", "uint8"])
def test_valid_of_another_dtype(dtype):
    with pytest.raises(TypeError, match=f"valid must be bool, got {dtype}"):
        roi_pool(F4, R5, 2, valid=np.ones(4, dtype))


@pytest.mark.parametrize(
    ("rois", "shape"), [(R5, (3,)), (R5, (4, 1)), (R5, ()), (NR4, (8,))]
)
def test_valid_of_another_shape(rois, shape):
    wanted = str(rois.shape[:-1])
    words = f"valid must have one entry per RoI, shape {wanted}, got {shape}"
    with pytest.raises(ValueError, match=re.escape(words)):
        roi_pool(F4, rois, 2, valid=np.ones(shape, bool))


def test_valid_that_is_no_array():
    with pytest.raises(TypeError, match="valid must be an array, got a list"):
        roi_pool(F4, R5, 2, valid=[True] * 4)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_maps_too_large_for_int32(layout):
    def shape(height, width):
        cells = (height, width)
        return (1, *cells, 1) if layout == "NHWC" else (1, 1, *cells)

    def pool(features):
        return roi_pool(features, R5, 2, layout=layout)

    bad = jax.ShapeDtypeStruct(shape(2**16, 2**15), jnp.float16)
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 cells.*65536"):
        jax.eval_shape(pool, bad)
    fits = jax.ShapeDtypeStruct(shape(2**16, 2**15 - 1), jnp.float16)
    assert jax.eval_shape(pool, fits).shape[0] == 4


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 2**31, 0, 1), r"2\*\*31 rows and columns, got 2147483648 and 0"),
        ((2**31, 0, 0, 1), r"2\*\*31 images, got 2147483648"),
    ],
)
def test_axes_too_large_for_int32(shape, words):
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=f"features must have fewer than {words}"):
        jax.eval_shape(lambda f: roi_pool(f, R5, 2), features)


@pytest.mark.parametrize("mode", ["no", None, 1, np.array([True])])
def test_forward_mode(mode):
    with pytest.raises(TypeError, match="forward_mode must be a static bool, got"):
        roi_pool(F4, R5, 2, forward_mode=mode)


def test_traced_forward_mode():
    with pytest.raises(TypeError, match="forward_mode must be a static bool"):
        jax.jit(lambda mode: roi_pool(F4, R5, 2, forward_mode=mode))(True)


@pytest.mark.parametrize("dtype", [object, "U3", "datetime64[s]"])
@pytest.mark.parametrize("name", ["features", "rois", "valid"])
def test_arrays_that_jax_cannot_hold(name, dtype):
    arguments = {"features": F4, "rois": R5, "valid": np.ones(4, bool)}
    arguments[name] = np.zeros(arguments[name].shape).astype(dtype)
    with pytest.raises(TypeError, match=f"{name} must be an array that JAX can hold"):
        roi_pool(**arguments, output_size=2)


def test_values_never_raise():
    rois = np.full((4, 5), np.nan, np.float32)
    np.testing.assert_array_equal(roi_pool(F4 + 1, rois, 2), 0)
    np.testing.assert_array_equal(roi_pool(F4 + 1, R5 + [9, 0, 0, 0, 0], 2), 0)


@pytest.mark.parametrize("form", ["flat", "one image"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_signalling_nan_of_numpy_does_not_warn(form, dtype):
    """Warnings are errors here. Found by tests/soak.py, as float64."""
    bits = {
        "float16": np.uint16(0x7C01),
        "float32": np.uint32(0x7F800001),
        "float64": np.uint64(0x7FF0000000000001),
    }[dtype]
    rois = np.zeros((10, 5) if form == "flat" else (8, 4), dtype)
    for k in range(rois.shape[1]):
        rois.view(bits.dtype)[k, k] = bits
    if dtype == "float64":
        rois[0, -1] = 1e300  # no float32
    features = F4 + 1 if form == "flat" else F3 + 1
    want = [0] * rois.shape[1] + [1] * (len(rois) - rois.shape[1])
    np.testing.assert_array_equal(roi_pool(features, rois, 1)[:, 0, 0, 0], want)
    np.testing.assert_array_equal(valid_rois(features, rois), want)


def test_only_boxes_of_four_numbers_get_the_hint():
    with pytest.raises(ValueError, match="rois must have 5 numbers") as error:
        roi_pool(F4, np.zeros((4, 6), np.float32), 2)
    assert "without an image index" not in str(error.value)
    with pytest.raises(ValueError, match="rois must have 4 numbers") as error:
        roi_pool(F4, np.zeros((2, 4, 5), np.float32), 2)
    assert "without an image index" not in str(error.value)


def test_what_has_a_shape_is_not_yet_an_array():
    class Shape:
        shape = (4, 5)

        def __repr__(self):
            return "a shape"

    with pytest.raises(TypeError, match="rois must be an array, got a shape"):
        roi_pool(F4, Shape(), 2)


def test_sizes_at_their_limits_are_fine():
    def shape(size, features=F4):
        rois = jax.ShapeDtypeStruct((4, 5), np.float32)
        return jax.eval_shape(lambda f, r: roi_pool(f, r, size), features, rois).shape

    assert shape((2**24, 1)) == (4, 2**24, 1, 3)
    assert shape((1, 2**24)) == (4, 1, 2**24, 3)
    (rows,) = jax.export.symbolic_shape("rows")
    for map_ in ((rows, 9), (9, rows)):  # checked when the program runs
        features = jax.ShapeDtypeStruct((2, *map_, 3), np.float32)
        assert shape((3, 2), features) == (4, 3, 2, 3)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"sampling_ratio": -1}, ValueError, "0 where torchvision's is -1"),
        ({"sampling_ratio": (2, -2)}, ValueError, "sampling_ratio must be from 0"),
        ({"sampling_ratio": 2.0}, TypeError, "sampling_ratio must be an int, got 2.0"),
        ({"sampling_ratio": True}, TypeError, "sampling_ratio must be an int"),
        ({"sampling_ratio": (1, 2, 3)}, ValueError, "sampling_ratio must be one num"),
        ({"aligned": 1}, TypeError, "aligned must be a static bool, got 1"),
        ({"mode": "max"}, ValueError, "mode must be \"avg\", got 'max'"),
        ({"box_gradient": None}, TypeError, "box_gradient must be a static bool"),
    ],
)
def test_arguments_of_roi_align(kwargs, error, words):
    with pytest.raises(error, match=words):
        roi_align(F4, R5, 2, **kwargs)
