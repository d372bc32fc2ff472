"""fpn_levels: areas compared with constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import fpn_levels

# The least areas of the levels 3 to 6: torchvision's, for every float32 area.
LEAST = np.float32([12543.98046875, 50175.9296875, 200703.671875, 802814.6875])


def box_of(area):
    """Boxes of exactly such areas: one side is 1."""
    area = np.asarray(area, np.float32)
    zero = np.zeros_like(area)
    return np.stack([zero, zero, area, zero + 1], axis=-1)


def test_the_levels_turn_where_torchvisions_do():
    for k, least in enumerate(LEAST):
        below = np.nextafter(least, np.float32(0))
        got = fpn_levels(box_of([below, least]), 5)
        np.testing.assert_array_equal(got, [k, k + 1])
        # The constants belong to absolute levels, whatever the lowest is.
        got = fpn_levels(box_of([below, least]), 3, min_level=3)
        np.testing.assert_array_equal(got, np.clip([k - 1, k], 0, 2))


def test_other_sizes():
    for size, level, lowest in ((224, 5, 2), (100, 4, 2), (224.5, 4, 3), (224, 4, 6)):
        for k in range(1, 4):
            side = np.float64(size) * 2.0 ** (k + lowest - level)
            least = np.float32(side**2 * 2.0**-2e-6)
            below = np.nextafter(least, np.float32(0))
            got = fpn_levels(
                box_of([below, least]),
                4,
                min_level=lowest,
                canonical_size=size,
                canonical_level=level,
            )
            np.testing.assert_array_equal(got, [k - 1, k])


def test_odd_boxes_and_dtypes():
    boxes = np.float32(
        [
            [0, 0, 0, 0],
            [0, 0, -300, 300],  # reversed along one axis
            [300, 300, 0, 0],  # along both: its positive area
            [np.nan, 0, 300, 300],
            [0, 0, np.inf, 300],
            [-3e38, -3e38, 3e38, 3e38],
        ]
    )
    want = [0, 0, 2, 0, 3, 3]
    np.testing.assert_array_equal(fpn_levels(boxes, 4), want)
    np.testing.assert_array_equal(jax.jit(lambda b: fpn_levels(b, 4))(boxes), want)
    with_index = np.concatenate([np.full((6, 1), 7.0), boxes], axis=1)
    np.testing.assert_array_equal(fpn_levels(with_index, 4), want)
    per_image = np.stack([boxes, boxes])
    np.testing.assert_array_equal(fpn_levels(per_image, 4), [want, want])
    assert fpn_levels(np.int32([[0, 0, 300, 300]]), 4)[0] == 2
    assert fpn_levels(boxes, 1).dtype == jnp.int32
    assert not fpn_levels(boxes, 1).any()
    gradient = jax.grad(lambda b: fpn_levels(b, 4).astype(jnp.float32).sum())(boxes)
    assert not gradient.any()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"num_levels": 0}, ValueError, "num_levels must be from 1 to 16"),
        ({"num_levels": 2.0}, TypeError, "num_levels must be an int"),
        ({"min_level": -1}, ValueError, "min_level must be from 0"),
        ({"canonical_level": True}, TypeError, "canonical_level must be an int"),
        ({"canonical_size": 0}, ValueError, "canonical_size must be finite and above"),
        ({"canonical_size": "a"}, TypeError, "canonical_size must be a number"),
        ({"rois": np.zeros((3, 3))}, ValueError, "rois must have 4 or 5 numbers"),
        ({"rois": np.zeros((3, 4), bool)}, TypeError, "rois must be of a real dtype"),
        ({"rois": [[0, 0, 1, 1]]}, TypeError, "rois must be one array"),
    ],
)
def test_bad_arguments(kwargs, error, words):
    arguments = {"rois": np.zeros((3, 4)), "num_levels": 4, **kwargs}
    with pytest.raises(error, match=words):
        fpn_levels(arguments.pop("rois"), arguments.pop("num_levels"), **arguments)
