"""The CUDA kernels on the host: their sources compiled as C++, threads as fibers.

`build` compiles the CUDA files of all ops with a header of its own in place of
cuda/device.h, and `use` puts the result in the place of the CPU kernels, handlers,
lowering rules and all, so that any test of the op can run on it.
"""

import contextlib
import ctypes
import functools
import pathlib

import jax

from jax_roipool import lowering
from tests import compiled

HERE = pathlib.Path(__file__).parent
NAME = "cuda-on-host"


def sources(csrc=compiled.CSRC):
    """Handlers and kernels of every op."""
    names = [p for n in ("*.cc", "*.cu") for p in csrc.glob(f"ops/*/cuda_{n}")]
    return [
        *sorted(names),
        *sorted((csrc / "core").glob("*.cc")),
        *sorted(HERE.glob("*.cc")),
    ]


def build(target, csrc=compiled.CSRC):
    """Compiles `csrc` into the library `target`."""
    compiled.build(target, sources(csrc), [HERE, csrc])


@functools.cache
def library():
    """The library of the sources as they are."""
    path = compiled.cached("cuda_on_host", sources(), [HERE, compiled.CSRC])
    return Library(path, NAME)


class Library:
    """Handlers, registered as targets `prefix`.<op>, and what steers them."""

    def __init__(self, path, prefix):
        loaded = ctypes.CDLL(str(path))
        self.prefix = prefix
        self.seed = loaded.cuda_on_host_seed
        self.seed.argtypes = [ctypes.c_uint64]
        self.blocks_run = loaded.cuda_on_host_blocks_run
        self.blocks_run.restype = ctypes.c_int64
        handler = loaded.cuda_on_host_handler
        handler.argtypes, handler.restype = [ctypes.c_char_p], ctypes.c_void_p
        self.ops = set()
        for op in lowering.ops():
            if found := handler(op.encode()):
                capsule = jax.ffi.pycapsule(ctypes.c_void_p(found))
                jax.ffi.register_ffi_target(f"{prefix}.{op}", capsule, platform="cpu")
                self.ops.add(op)


_in_use = []


def _lower_to(chosen):
    for name, op in lowering.ops().items():
        if chosen is None:
            lowering.lower(op)
        elif name in chosen.ops:
            rule = lowering.cuda_kernel(op, f"{chosen.prefix}.{name}")
            lowering.lower_to(op, rule, "cpu", lambda: True)
    jax.clear_caches()


@contextlib.contextmanager
def use(chosen=None):
    """Programs for the CPU call the CUDA kernels while this lasts.

    Gives the library, which must have run something by the end.
    """
    chosen = chosen or library()
    before = chosen.blocks_run()
    _in_use.append(chosen)
    _lower_to(chosen)
    try:
        yield chosen
    finally:
        _in_use.remove(chosen)
        _lower_to(_in_use[-1] if _in_use else None)
    assert chosen.blocks_run() > before
