"""Shared memory: what many read, and parcels whose memory serves again."""

import os
import pickle

import numpy as np
import pytest

pytest.importorskip("cv2")

from jax_roipool.data import shared
from tests.data.sets import roidb_of


def test_an_object_read_by_many():
    roidb = roidb_of(200, proposals=300)
    assert roidb.nbytes > 1_000_000
    memory = shared.Shared(roidb)
    pickled = pickle.dumps(memory)
    assert len(pickled) < 10_000
    copies = [pickle.loads(pickled) for _ in range(2)]
    memory.close()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)
    for copy in copies:
        assert copy.fingerprint == roidb.fingerprint
        for array in copy.columns.values():
            assert not array.flags.owndata
            assert not array.flags.writeable


@pytest.fixture
def parcels():
    parcels = shared.Parcels()
    yield parcels
    parcels.close(2)
    if os.path.isdir(shared._SHM):
        assert not [f for f in os.listdir(shared._SHM) if f.startswith(parcels.name)]


def value(seed, size=1000):
    r = np.random.default_rng(seed)
    return {
        "a": r.normal(size=size),
        "b": [r.integers(0, 255, (3, 5), np.uint8), "text", None],
        "empty": np.zeros((0, 4), np.float32),
    }


def assert_same(got, want):
    np.testing.assert_array_equal(got["a"], want["a"])
    np.testing.assert_array_equal(got["b"][0], want["b"][0])
    assert got["b"][1:] == want["b"][1:]
    assert got["empty"].shape == (0, 4)


def test_a_parcel_arrives(parcels):
    packer = shared.Packer(parcels.name, 0)
    parcel = packer.pack(value(0, 10**5))
    assert len(pickle.dumps(parcel)) < 500
    got = parcels.open(parcel)
    assert_same(got, value(0, 10**5))
    got["a"][0] = 7  # writeable, and aligned for XLA
    assert got["a"].ctypes.data % 64 == 0


def test_memory_serves_again_when_its_last_array_is_gone(parcels):
    packer = shared.Packer(parcels.name, 0)
    first, second = (parcels.open(packer.pack(value(i))) for i in range(2))
    assert len(packer._blocks) == 2
    kept = first["a"][10:20]  # a view of a view
    del first
    third = parcels.open(packer.pack(value(2)))
    assert len(packer._blocks) == 3
    np.testing.assert_array_equal(kept, value(0)["a"][10:20])
    del kept
    for i in range(3, 50):
        parcel = packer.pack(value(i, 1000 - i))  # smaller ones fit too
        assert_same(parcels.open(parcel), value(i, 1000 - i))
    assert len(packer._blocks) == 3
    assert_same(second, value(1))
    assert_same(third, value(2))


def test_larger_objects_get_larger_memory(parcels):
    packer = shared.Packer(parcels.name, 1)
    for size in (10, 10**5, 10, 10**5):
        assert_same(parcels.open(packer.pack(value(0, size))), value(0, size))
    assert [block.size > 10**5 for block in packer._blocks] == [False, True]


def test_objects_outlive_what_brought_them():
    parcels = shared.Parcels()
    packer = shared.Packer(parcels.name, 0)
    got = parcels.open(packer.pack(value(0)))
    parcels.close(1)
    assert_same(got, value(0))


def test_a_block_that_was_never_finished(parcels):
    """As a packer leaves it that is killed between two system calls."""
    if not os.path.isdir(shared._SHM):
        pytest.skip("no /dev/shm")
    packer = shared.Packer(parcels.name, 0)
    got = parcels.open(packer.pack(value(0)))
    open(os.path.join(shared._SHM, f"{parcels.name}_0_1"), "x").close()
    parcels.close(1)  # the fixture finds nothing left
    assert_same(got, value(0))


def test_without_files_of_shared_memory(parcels, monkeypatch):
    """As on macOS: copied out of the block, which is free at once."""
    monkeypatch.setattr(shared, "_SHM", "/nowhere")
    packer = shared.Packer(parcels.name, 0)
    got = [parcels.open(packer.pack(value(i))) for i in range(3)]
    assert len(packer._blocks) == 1
    for i in range(3):
        assert_same(got[i], value(i))
    # So that the fixture finds nothing in the real place.
    parcels.close(1)


def test_too_little_shared_memory(monkeypatch):
    if not os.path.isdir(shared._SHM):
        pytest.skip("no /dev/shm")
    little = os.statvfs_result([1] * 10)
    monkeypatch.setattr(shared.os, "statvfs", lambda _: little)
    with pytest.raises(MemoryError, match="has 1 left; a container gets more with"):
        shared.Shared(np.zeros(100))
