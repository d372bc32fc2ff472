"""csrc/core/caffe_bins.h, its Python twin and the oracle know the same bins."""

import jax
import numpy as np
import pytest

from jax_roipool import backends
from jax_roipool.geometry import caffe_bins
from tests.oracle import roi_pool as oracle

_cpu = pytest.importorskip("jax_roipool._cpu")
probes = pytest.importorskip("tests.probes")


@jax.jit(static_argnums=(2, 3, 4))
def twin(low, high, scale, numbers, extent):
    """For several numbers of bins, in one program."""
    return [caffe_bins.bin_bounds(low, high, scale, n, extent) for n in numbers]


def one_by_one(bins, low, high, scale, num_bins, extent):
    return [bins(x, y, scale, num_bins, extent) for x, y in zip(low, high, strict=True)]


def check(low, high, scale, numbers, extent):
    boxes = np.asarray(low, np.float32), np.asarray(high, np.float32)
    of_twin = twin(*boxes, float(np.float32(scale)), numbers, extent)
    for num_bins, bounds in zip(numbers, of_twin, strict=True):
        args = (low, high, scale, num_bins, extent)
        kernel = one_by_one(probes.bin_bounds, *args)
        np.testing.assert_array_equal(kernel, np.stack(bounds, axis=-1))
        np.testing.assert_array_equal(kernel, one_by_one(oracle.bins, *args))


def test_every_length_up_to_512():
    last = np.arange(512, dtype=np.float32)
    check(np.zeros(512, np.float32), last, 1.0, tuple(range(1, 33)), 1000)


def test_the_bins_are_those_of_float32():
    # 7 bins over 57 cells: 7 * float32(57 / 7) is above 57.
    assert probes.bin_bounds(0.0, 56.0, 1.0, 7, 100)[-1] == (48, 58)
    # 29 cells: a product with the reciprocal of 7 would end at 30.
    assert probes.bin_bounds(0.0, 28.0, 1.0, 7, 100)[-1] == (24, 29)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1 / 16, 1 / 3, 0.0625001, 7.3])
def test_coordinates_of_every_kind(scale):
    r = np.random.default_rng(0)
    halves = (np.arange(-40, 40) + 0.5) / np.float32(scale)
    special = np.concatenate(
        [
            [0.0, -0.0, 1e-45, -1e-45, 1e-38, 0.49999997, -0.49999997],
            [8388607.5, 8388608.5, 1.6777216e7, 1.6777218e7, 3.3554432e7],
            [1e30, -1e30, 3.4e38, -3.4e38],
        ]
    )
    coordinates = np.concatenate(
        [
            r.uniform(-2000, 2000, 1000),
            r.integers(-300, 300, 300) / 2,
            halves,
            np.nextafter(halves, -np.inf, dtype=np.float32),
            np.nextafter(halves, np.inf, dtype=np.float32),
            special,
            -special,
        ]
    ).astype(np.float32)
    low, high = coordinates, r.permutation(coordinates)
    check(low, high, scale, (1, 2, 7, 14), 63)


def test_the_twin_divides_correctly_rounded():
    r = np.random.default_rng(1)
    lengths = np.unique(
        np.concatenate(
            [
                np.arange(1, 3000),
                r.integers(1, 2**25 + 2, 5000),
                2 ** np.arange(26),
                2 ** np.arange(1, 26) - 1,
                [2**25 + 1],
            ]
        )
    ).astype(np.int32)
    divisors = [*range(1, 70), 97, 1000, 4095, 65537, 2**24 - 1, 2**24]
    divisors = np.array(divisors, np.int32)[:, None]
    lengths = np.broadcast_to(lengths, (len(divisors), len(lengths)))
    np.testing.assert_array_equal(
        jax.jit(caffe_bins._divide)(lengths, divisors),
        lengths.astype(np.float32) / divisors.astype(np.float32),
    )


def test_many_bins():
    check([0.0, 3.0], [4.0, 2.0**24], 1.0, (100_000,), 63)


def test_kernels_are_there():
    assert backends.CPU.problem == ""
    assert "baseline" in _cpu.supported_isas()
