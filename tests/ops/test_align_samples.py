"""csrc/core/align_samples.h, its Python twin and float32 in NumPy: the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool.geometry.align_samples import SampleAxis

probes = pytest.importorskip("tests.probes")

F = np.float32
EXTENT = 23


def expected(low, high, scale, num_bins, ratio, aligned, room):
    """[K, P, room]: NaN for samples outside. Each operation rounds on its own."""
    low, high, scale = F(low)[:, None, None], F(high)[:, None, None], F(scale)
    with np.errstate(all="ignore"):
        start = low * scale - F(0.5 * aligned)
        end = high * scale - F(0.5 * aligned)
        finite = np.isfinite(start) & np.isfinite(end)
        length = end - start
        if not aligned:
            length = np.maximum(length, F(1))
        size = length / F(num_bins)
        grid = F(ratio) if ratio else np.maximum(np.ceil(size), F(0))
        grid = np.broadcast_to(grid, size.shape)
        p, i = np.arange(num_bins, dtype=F)[:, None], np.arange(room, dtype=F)
        place = (start + p * size) + ((i + F(0.5)) * size) / grid
        inside = (place >= -1) & (place <= EXTENT) & (i < grid)
        inside &= finite & (abs(length) < 2**24)
    return np.where(inside, place, np.nan)


def of_twin(low, high, scale, num_bins, ratio, aligned, room):
    """The same by the twin."""

    def samples(low, high):
        axis = SampleAxis.of(low, high, scale, num_bins, EXTENT, ratio, aligned)

        def put(number, places):
            sample, place, inside = axis._sample(number)
            k, p = jnp.indices(sample.shape)
            place = jnp.where(inside, place, jnp.nan)
            sample = jnp.where(inside, sample, room).astype(jnp.int32)
            return places.at[k, p, sample].set(place, mode="drop")

        places = jnp.full((len(low), num_bins, room), jnp.nan)
        return jax.lax.fori_loop(0, axis.most, put, places)

    return jax.jit(samples)(low, high)


def check(low, high, scale, num_bins, ratio, aligned, room):
    args = (scale, num_bins, ratio, aligned, room)
    low, high = np.asarray(low, F), np.asarray(high, F)
    want = expected(low, high, *args)
    assert np.isfinite(want).any()
    twin = of_twin(low, high, *args)
    np.testing.assert_array_equal(twin, want)
    kernel = probes.align_samples(
        low, high, scale, num_bins, EXTENT, ratio, aligned, room
    )
    np.testing.assert_array_equal(kernel, want)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize(("scale", "num_bins"), [(1.0, 3), (1 / 16, 7), (1 / 3, 5)])
def test_a_grid_of_boxes(scale, num_bins, ratio, aligned):
    """Every box on quarters of a cell in and around the map, and odd ones."""
    quarters = np.arange(-3, EXTENT + 3, 0.25)
    low, high = (x.ravel() / scale for x in np.meshgrid(quarters, quarters[::3]))
    r = np.random.default_rng(0)
    odd = r.uniform(-5, EXTENT + 5, (2, 500)) / scale
    near = np.nextafter(F(np.stack([low, high])), F(r.choice([-np.inf, np.inf])))
    low = np.concatenate([low, odd[0], near[0]])
    high = np.concatenate([high, odd[1], near[1]])
    check(low, high, scale, num_bins, ratio, aligned, 12)


@pytest.mark.parametrize("aligned", [True, False])
def test_boxes_far_larger_than_the_map(aligned):
    """Of many samples those inside are found, and none twice."""
    low = F([-3e4, -1e4, -20, 0, 9e3, -3e38, 0, -1e7, 8388600])
    high = F([3e4, 20, 1e4, 3e4, -9e3, 3e38, 1.7e7, 1e7, 8388700])
    # In one bin samples are a cell apart: those inside are few, of many.
    for num_bins in (1, 4):
        room = 2**16
        check(low, high, 1.0, num_bins, 0, aligned, room)
    check(low, high, 1.0, 2, 64, aligned, 64)
    # Finite corners, infinite once they are scaled: no samples.
    check([0, 3e38, 1], [-3e38, 0, 9], 2.0, 2, 2, aligned, 2)
