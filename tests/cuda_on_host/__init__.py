"""The CUDA kernels on the host: their sources compiled as C++, threads as fibers.

`build` compiles csrc/cuda with a header of its own in place of device.h and
`use` puts the result in the place of the CPU kernels, handlers, lowering rules
and all, so that any test of the op can run on it.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import shlex
import subprocess
import tempfile

import jax
from jax.interpreters import mlir

from jax_roipool import lowering

HERE = pathlib.Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
NAME = "cuda-on-host"
FLAGS = "-std=c++17 -O1 -shared -fPIC -ffp-contract=off -fvisibility=hidden"


def sources(csrc=CSRC):
    return [
        *(csrc / "cuda" / name for name in ("pool.cu", "gather.cu", "scatter.cu")),
        csrc / "cuda" / "handlers.cc",
        csrc / "problem.cc",
        HERE / "fibers.cc",
        HERE / "library.cc",
    ]


def compiler():
    return shlex.split(os.environ.get("CXX") or "c++")


def build(target, csrc=CSRC):
    """Compiles `csrc`, each source at once, into the library `target`."""
    target = pathlib.Path(target)
    includes = [f"-I{HERE}", f"-I{csrc}", "-isystem", jax.ffi.include_dir()]
    with tempfile.TemporaryDirectory() as directory:
        objects, running = [], []
        for source in sources(csrc):
            objects.append(f"{directory}/{source.name}.o")
            running.append(
                subprocess.Popen(
                    [
                        *compiler(), *shlex.split(FLAGS), *includes,
                        *("-x", "c++", "-c", source, "-o", objects[-1]),
                    ]
                )
            )  # fmt: skip
        assert all([process.wait() == 0 for process in running])
        made = f"{directory}/library.so"
        subprocess.run([*compiler(), "-shared", *objects, "-o", made], check=True)
        # Whoever else makes it makes the same.
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(pathlib.Path(made).read_bytes())
        partial.rename(target)


@functools.cache
def library():
    """The library of the sources as they are, compiled where that is not done."""
    digest = hashlib.sha256(" ".join([*compiler(), FLAGS]).encode())
    for directory in (CSRC, HERE, pathlib.Path(jax.ffi.include_dir())):
        for path in sorted(directory.rglob("*")):
            if path.suffix in (".cu", ".cc", ".h"):
                digest.update(path.read_bytes())
    cache = HERE.parent.parent / "build" / "cuda_on_host"
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{digest.hexdigest()[:16]}.so"
    if not path.exists():
        build(path)
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
        for op in lowering.primitives():
            capsule = jax.ffi.pycapsule(getattr(loaded, f"jax_roipool_{op}"))
            jax.ffi.register_ffi_target(f"{prefix}.{op}", capsule, platform="cpu")


_in_use = []


def _lower_to(chosen):
    for op, bound in lowering.primitives().items():
        if chosen is None:
            lowering.register(op)
        else:
            rule = lowering.cuda_kernel(op, f"{chosen.prefix}.{op}")
            mlir.register_lowering(bound, rule, platform="cpu")
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
