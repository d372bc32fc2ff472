"""The calls that every implementation must answer like the oracle."""

import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64")
LAYOUTS = ("NHWC", "NCHW")

NAN, INF = np.nan, np.inf


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One call in the flat form, channels last."""

    name: str
    features: np.ndarray  # [N, H, W, C] float32
    rois: np.ndarray  # [K, 5]
    size: tuple[int, int] = (2, 2)
    scale: tuple[float, float] = (1.0, 1.0)
    valid: Any = None
    about_numbers: bool = False  # in the map, not about where bins lie

    def __str__(self) -> str:
        return self.name

    def features_as(self, dtype: str) -> np.ndarray:
        """The features in a dtype, too large ones infinite."""
        with np.errstate(over="ignore"):
            return self.features.astype(dtype_of(dtype))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def few_values(*shape: int, seed: int = 0) -> np.ndarray:
    """Small integers: many ties, exact sums, exact in every dtype."""
    return rng(seed).integers(-3, 4, shape).astype(np.float32)


def random_rois(count, images, height, width, scale=1.0, seed=0):
    """Boxes in and around a map of height x width cells, in pixels."""
    r = rng(seed)
    corners = r.uniform(-0.3, 1.3, (count, 2, 2)) * [width, height] / scale
    ordered = np.sort(corners, axis=1)
    mix = r.random((count, 1, 1)) < 0.9  # a tenth may be reversed
    boxes = np.where(mix, ordered, corners).reshape(count, 4)
    index = r.integers(0, images, (count, 1))
    return np.concatenate([index, boxes], axis=1).astype(np.float32)


def special_values(*shape: int) -> np.ndarray:
    """NaN, infinities, zeros of both signs and extremes, in no order."""
    values = [NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, -6e4, 6e4]
    return rng(5).choice(np.array(values, np.float32), shape)


def _alike(name: str, features: Any, rois: Any, **kwargs: Any) -> Case:
    """A case of 2 images of 8 x 10 cells, 7 channels and 12 RoIs: one program for all.

    RoIs that are missing are in no image.
    """
    features = np.broadcast_to(features, (2, 8, 10, 7))
    empty = np.tile(np.float32([-1, 0, 0, 9, 7]), (12 - len(rois), 1))
    rois = np.concatenate([np.array(rois, np.float32).reshape(-1, 5), empty])
    return Case(name, features, rois, (2, 3), **kwargs)


def _cases() -> list[Case]:
    whole = [0, 0, 0, 9, 7]
    return [
        Case(
            "rounding at .5",
            normal(1, 8, 10, 5),
            np.array(
                [
                    [0, 8, 8, 72, 56],  # 0.5, 4.5, 3.5 at 1/16
                    [0, 24, 40, 104, 88],
                    [0, -8, -24, 40, 40],  # -0.5, -1.5
                    [0, 7.9999995, 7.9999995, 71.99999, 55.999996],
                ],
                np.float32,
            ),
            (3, 3),
            (1 / 16, 1 / 16),
        ),
        _alike(
            "reversed, outside, partly outside",
            normal(2, 8, 10, 7),
            [
                [0, 6, 5, 2, 1],
                [1, 6, 1, 2, 5],
                [0, 20, 20, 30, 30],
                [1, -30, -30, -20, -20],
                [0, -5, -5, 3, 3],
                [1, 7, 5, 40, 40],
                [0, -100, -100, 100, 100],
            ],
        ),
        Case(
            "smaller than the output",
            normal(1, 8, 10, 3),
            np.array(
                [[0, 3, 3, 3, 3], [0, 2, 1, 4, 2], [0, 9, 7, 9, 7], whole],
                np.float32,
            ),
            (7, 5),
        ),
        _alike(
            "ties",
            few_values(2, 8, 10, 7),
            [whole, [0, 1, 1, 8, 6], [1, 0, 0, 4, 7]],
            about_numbers=True,
        ),
        _alike(
            "all equal, zeros of both signs",
            np.where(rng(1).random((2, 8, 10, 7)) < 0.5, 0.0, -0.0).astype(np.float32),
            [whole],
        ),
        _alike(
            "NaN and infinities",
            special_values(2, 8, 10, 7),
            random_rois(12, 2, 8, 10, seed=3),
            about_numbers=True,
        ),
        _alike(
            "nothing but -inf, nothing but NaN",
            np.float32([-INF, NAN]).reshape(2, 1, 1, 1),
            [whole, [1, 2, 2, 7, 7], [1, 20, 0, 30, 7]],
            about_numbers=True,
        ),
        Case(
            "7 bins over 57 cells read one more",
            # Values grow with rows and columns, so the last one shows.
            np.arange(60 * 60, dtype=np.float32).reshape(1, 60, 60, 1),
            np.array([[0, 0, 0, 56, 56], [0, 1, 2, 57, 58]], np.float32),
            (7, 7),
        ),
        Case(
            "anisotropic scale",
            normal(1, 8, 10, 4),
            np.array([[0, 0, 0, 39, 15], [0, 8, 2, 30, 13]], np.float32),
            (2, 2),
            (0.5, 0.25),
        ),
        Case(
            "hostile numbers",
            normal(2, 8, 10, 4),
            np.array(
                [
                    [0, 0, 0, 1e30, 1e30],
                    [1, -3e38, -3e38, 3e38, 3e38],
                    [0, 3e38, 3e38, -3e38, -3e38],
                    [0, NAN, 0, 5, 5],
                    [0, 0, INF, 5, 5],
                    [0, 0, 0, -INF, 5],
                    [NAN, 0, 0, 5, 5],
                    [INF, 0, 0, 5, 5],
                    [-INF, 0, 0, 5, 5],
                    [-1, 0, 0, 5, 5],
                    [-0.25, 0, 0, 5, 5],
                    [2, 0, 0, 5, 5],
                    [1.75, 0, 0, 5, 5],
                    [1e20, 0, 0, 5, 5],
                    [3e9, 0, 0, 5, 5],
                    [-3e9, 0, 0, 5, 5],
                    [1, 1e-40, 1e-45, 5, 5],
                    [0, 16777217, 0, 16777219, 5],
                ],
                np.float32,
            ),
            (2, 2),
            (1.5, 1.5),
        ),
        _alike(
            "some not valid",
            normal(2, 8, 10, 7),
            random_rois(12, 2, 8, 10, seed=4),
            valid=np.arange(12) % 3 == 0,
        ),
        _alike(
            "no RoI valid",
            normal(2, 8, 10, 7),
            random_rois(12, 2, 8, 10, seed=4),
            valid=np.zeros(12, bool),
        ),
        Case("no RoIs", normal(2, 8, 10, 4), np.zeros((0, 5), np.float32)),
        Case("no channels", normal(2, 8, 10, 0), np.zeros((3, 5), np.float32)),
        Case("no rows", normal(2, 0, 10, 4), np.zeros((3, 5), np.float32)),
        Case("no columns", normal(2, 8, 0, 4), np.zeros((3, 5), np.float32)),
        Case("no images", normal(0, 8, 10, 4), np.zeros((3, 5), np.float32)),
        Case(
            "many images, some unused",
            normal(9, 6, 5, 3),
            random_rois(20, 4, 6, 5, seed=8) + np.float32([3, 0, 0, 0, 0]),
        ),
        Case(
            "proposals",
            normal(2, 19, 31, 48),
            random_rois(40, 2, 19, 31, scale=1 / 16, seed=9),
            (7, 7),
            (1 / 16, 1 / 16),
        ),
    ]


CASES = _cases()

# One vector, a bit more, several, and what is left over, on every target.
CHANNEL_CASES = [
    Case(
        f"{channels} channels",
        few_values(2, 7, 6, channels, seed=channels),
        random_rois(6, 2, 7, 6, seed=channels),
        (3, 2),
    )
    for channels in (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 100, 129, 300)
]


def in_layout(x: np.ndarray, layout: str) -> np.ndarray:
    """Channels last to `layout`."""
    return np.moveaxis(x, -1, -3) if layout == "NCHW" else x


def channels_last(x: Any, layout: str) -> np.ndarray:
    x = np.asarray(x)
    return np.moveaxis(x, -3, -1) if layout == "NCHW" else x


def assert_same(got: Any, want: Any) -> None:
    """Equal numbers, NaN equal to NaN and 0 to -0, of any dtype."""
    got, want = np.asarray(got), np.asarray(want)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(got, want)


def smooth(features: np.ndarray) -> np.ndarray:
    """Values far apart, so that finite differences change no maximum."""
    values = rng(3).permutation(features.size).reshape(features.shape)
    return (values * 0.1).astype(np.float32)


def custom_calls(text: str) -> dict[str, int]:
    """How often each of our targets is called in a program's text."""
    found = re.findall(r"@jax_roipool_(\w+)\(", text)
    return {name: found.count(name) for name in found}
