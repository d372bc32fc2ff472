"""`python -m jax_roipool`: what is built here, and whether it agrees."""

import importlib.metadata
import os
import platform
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import __version__, backends, lowering
from jax_roipool.primitive import Op

# Every element type, both layouts.
_CALLS = (("float32", "NHWC"), ("bfloat16", "NCHW"), ("float16", "NHWC"))


def _report() -> None:
    ffi = backends.jaxlib_ffi_version()
    print(f"jax_roipool {__version__}")
    print(
        f"  python {platform.python_version()}, jax {jax.__version__}, jaxlib "
        f"{importlib.metadata.version('jaxlib')} (XLA FFI "
        f"{'unknown' if ffi is None else '.'.join(map(str, ffi))}), numpy "
        f"{np.__version__}"
    )
    print("platforms")
    for name, backend in (("cpu", backends.CPU), ("cuda", backends.CUDA)):
        for line in backend.describe():
            print(f"  {name:6}  {line}")
            name = ""
    print("  others  plain JAX: no kernels for rocm or tpu in this version")
    print(f"  in use  {jax.default_backend()}, {jax.device_count()} device(s)")


def _agrees(op: Op, dtype: str, layout: str) -> bool:
    """Whether an op as lowered here equals its plain JAX, NaN included."""
    operands, params = op.example(dtype, layout)
    got = jax.jit(partial(op.bind, **params))(*operands)
    want = jax.jit(partial(op.plain, **params))(*operands)
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    same = all(_equal(x, y) for x, y in zip(got, want, strict=True))
    print(f"  {'equal ' if same else 'DIFFER'}  {op.name}, {dtype}, {layout}")
    return same


def _equal(x: jax.Array, y: jax.Array) -> bool:
    nan = jnp.issubdtype(x.dtype, jnp.floating)
    return bool(jnp.array_equal(x, y, equal_nan=nan))


def main() -> int:
    """Prints the report and the self-check's outcome; 1 unless all that runs agrees."""
    _report()
    backend = {"cpu": backends.CPU, "gpu": backends.CUDA}.get(jax.default_backend())
    if backend is None or backend.choice == backends.PLAIN:
        print("self-check: nothing to compare, plain JAX is what runs here")
        return 1
    print("self-check: compiled kernels against plain JAX")
    start = time.perf_counter()
    ops = [op for op in lowering.ops().values() if lowering.runs_kernel(op, backend)]
    agree = all([_agrees(op, *call) for call in _CALLS for op in ops])
    print(
        f"{'all equal' if agree else 'NOT EQUAL'} after "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0 if agree else 1


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
