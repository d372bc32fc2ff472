"""Which RoIs an op does anything for."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import valid_rois
from tests.cases import assert_same


def test_valid_rois():
    nan, inf = np.nan, np.inf
    rois = np.array(
        [
            [0, 0, 0, 5, 5],
            [1, 5, 5, 0, 0],  # reversed: not empty
            [1, 90, 90, 99, 99],  # outside: not empty
            [2, 0, 0, 5, 5],
            [-1, 0, 0, 5, 5],
            [nan, 0, 0, 5, 5],
            [0, 0, nan, 5, 5],
            [0, 0, 0, inf, 5],
            [0, 0, 0, 5, 5],
        ],
        np.float32,
    )
    valid = np.ones(9, bool)
    valid[-1] = False
    expected = [True, True, True] + [False] * 6
    features = np.zeros((2, 8, 8, 1), np.float32)
    got = valid_rois(features, rois, valid=valid)
    assert got.dtype == jnp.bool_
    assert_same(got, expected)
    assert_same(jax.jit(valid_rois)(features, rois), expected[:-1] + [True])
    with jax.enable_x64(True):  # finite as float64, not as float32
        wide_roi = jnp.array([[0, 0, 0, 1e39, 5]], jnp.float64)
        assert not valid_rois(features, wide_roi)[0]


def test_float64_indices_of_numpy_are_not_rounded():
    features = np.zeros((3, 1, 1, 1), np.float32)
    rois = np.zeros((6, 5))
    rois[:, 0] = [1.99999999999, 2.99999999999, -1e-60, 0.0, np.nan, np.inf]
    assert_same(valid_rois(features, rois), [1, 1, 0, 1, 0, 0])
