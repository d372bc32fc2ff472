"""What tests ask of csrc and no op shows: bins, samples, who shares tables."""

import ctypes
import functools
import pathlib

import numpy as np

from jax_roipool import _cpu
from tests import compiled

HERE = pathlib.Path(__file__).parent
LAYOUTS = ("NHWC", "NCHW")
VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}  # cpu/vectors.h


@functools.cache
def _library():
    names = ("core/sizes.cc", "cpu/work.cc", "ops/max/cpu_plan.cc")
    sources = [compiled.CSRC / name for name in (*names, "ops/max/cpu_tables.cc")]
    sources.append(HERE / "probes.cc")
    path = compiled.cached("probes", sources, [HERE, compiled.CSRC])
    loaded = ctypes.CDLL(str(path))
    pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    loaded.bin_bounds.argtypes = [*[real] * 3, size, size, pointer]
    loaded.bin_bounds.restype = None
    loaded.align_samples.argtypes = [
        *(pointer, pointer, size, real, size, size, size),
        *(ctypes.c_bool, size, pointer),
    ]
    loaded.align_samples.restype = None
    loaded.shared_tables.argtypes = [
        *(ctypes.c_int, pointer, size, pointer, pointer),
        *(ctypes.c_bool, size, pointer, size),
    ]
    loaded.shared_tables.restype = size
    return loaded


def bin_bounds(low, high, scale, num_bins, extent):
    """Half-open ranges of the bins along one axis (core/caffe_bins.h)."""
    bounds = np.zeros((num_bins, 2), np.int32)
    _library().bin_bounds(low, high, scale, num_bins, extent, bounds.ctypes.data)
    return [tuple(map(int, bound)) for bound in bounds]


def align_samples(low, high, scale, num_bins, extent, ratio, aligned, room):
    """[K, P, room]: where samples are, NaN for those outside (core/align_samples.h)."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    coordinates = np.full((len(low), num_bins, room), np.nan, np.float32)
    _library().align_samples(
        *(low.ctypes.data, high.ctypes.data, len(low), scale, num_bins, extent),
        *(ratio, aligned, room, coordinates.ctypes.data),
    )
    return coordinates


def shared_tables(layout, shape, boxes, size, argmax):
    """The tables that RoIs of one float32 map [H, W, C] share (ops/max/cpu_tables.h).

    Returns:
      Of each, block height, block width and number of RoIs, on the instruction set
      in use.
    """
    shape, size = np.array(shape, np.int64), np.array(size, np.int64)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    found = np.zeros((1000, 3), np.int64)
    count = _library().shared_tables(
        *(LAYOUTS.index(layout), shape.ctypes.data, len(boxes), boxes.ctypes.data),
        *(size.ctypes.data, argmax, VECTOR_BYTES[_cpu.isa()]),
        *(found.ctypes.data, len(found)),
    )
    assert count <= len(found)
    return [tuple(map(int, table)) for table in found[:count]]
