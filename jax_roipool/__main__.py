"""`python -m jax_roipool`: what is built here, and whether it agrees."""

import importlib.metadata
import platform
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_roipool import __version__, lowering, reference


def _report() -> None:
    ffi = lowering.jaxlib_ffi_version()
    print(f"jax_roipool {__version__}")
    print(
        f"  python {platform.python_version()}, jax {jax.__version__}, jaxlib "
        f"{importlib.metadata.version('jaxlib')} (XLA FFI "
        f"{'unknown' if ffi is None else '.'.join(map(str, ffi))}), numpy "
        f"{np.__version__}"
    )
    print("platforms")
    if lowering.cpu_problem():
        print(f"  cpu     plain JAX: {lowering.cpu_problem()}")
    else:
        built = ", ".join(lowering.built_cpu_targets())
        portable = lowering.cpu_target() == lowering.PORTABLE
        used = "plain JAX, forced" if portable else f"kernels, {lowering.cpu_target()}"
        print(f"  cpu     {used}")
        print(
            f"          built: {built}; this CPU runs: "
            f"{', '.join(lowering.supported_cpu_targets()[:-1])}; choose with "
            "JAX_ROIPOOL_CPU_TARGET"
        )
    if lowering.cuda_problem():
        print(f"  cuda    plain JAX: {lowering.cuda_problem()}")
    else:
        forced = lowering.cuda_target() == lowering.PORTABLE
        print(f"  cuda    {'plain JAX, forced' if forced else lowering.cuda_build()}")
    print("  others  plain JAX: no kernels for rocm or tpu in this version")
    print(f"  in use  {jax.default_backend()}, {jax.device_count()} device(s)")


def _inputs(dtype: str, layout: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features with ties and NaN; boxes in, around and outside of two images."""
    rng = np.random.default_rng(0)
    features = rng.integers(-9, 10, (2, 19, 31, 37)).astype(np.float32)
    features[rng.random(features.shape) < 0.01] = np.nan
    if layout == "NCHW":
        features = np.moveaxis(features, -1, 1)
    boxes = rng.uniform(-40, 560, (60, 4)).astype(np.float32)
    image = rng.integers(-1, 3, 60).astype(np.int32)
    return (
        jnp.asarray(features, jnp.dtype(dtype)),
        jnp.asarray(boxes),
        jnp.asarray(image),
    )


def _agree(dtype: str, layout: str) -> bool:
    """Whether every op as lowered here equals plain JAX, NaN included."""
    features, boxes, image = _inputs(dtype, layout)
    pool: dict[str, Any] = {
        "output_size": (7, 5),
        "spatial_scale": (1 / 16, 1 / 20),
        "layout": layout,
    }
    rows_columns = features.shape[1:3] if layout == "NHWC" else features.shape[2:]
    scatter: dict[str, Any] = {
        "group_ndim": 0,
        "map_size": (features.shape[0], *rows_columns),
        "layout": layout,
    }
    run_pool = jax.jit(partial(reference.roi_pool_argmax, **pool))
    pooled, argmax = run_pool(features, boxes, image)
    # Integers: their sums are exact in any order.
    cotangent = (argmax % 5).astype(features.dtype)
    run_gather = jax.jit(partial(reference.roi_gather, layout=layout))
    run_scatter = jax.jit(partial(reference.roi_scatter, **scatter))
    per_roi = (image, argmax)
    expected = {
        "roi_pool": ((features, boxes, image), pool, pooled),
        "roi_pool_argmax": ((features, boxes, image), pool, [pooled, argmax]),
        "roi_gather": (
            (features, *per_roi),
            {"layout": layout},
            run_gather(features, *per_roi),
        ),
        "roi_scatter": (
            (cotangent, *per_roi),
            scatter,
            run_scatter(cotangent, *per_roi),
        ),
    }
    agree = True
    for name, (operands, params, want) in expected.items():
        got = jax.jit(partial(lowering.primitives()[name].bind, **params))(*operands)
        same = jax.tree.all(jax.tree.map(_equal, got, want))
        print(f"  {'equal ' if same else 'DIFFER'}  {name}, {dtype}, {layout}")
        agree = agree and same
    return agree


def _equal(x: jax.Array, y: jax.Array) -> bool:
    nan = jnp.issubdtype(x.dtype, jnp.floating)
    return bool(jnp.array_equal(x, y, equal_nan=nan))


def main() -> int:
    """Prints the report and the self-check's outcome; 1 where they differ."""
    _report()
    target = {"cpu": lowering.cpu_target, "gpu": lowering.cuda_target}
    used = target.get(jax.default_backend(), lambda: lowering.PORTABLE)()
    if used == lowering.PORTABLE:
        print("self-check: nothing to compare, plain JAX is what runs here")
        return 0
    print("self-check: compiled kernels against plain JAX")
    start = time.perf_counter()
    agree = all(
        [
            _agree("float32", "NHWC"),
            _agree("bfloat16", "NCHW"),
            _agree("float16", "NHWC"),
        ]
    )
    print(
        f"{'all equal' if agree else 'NOT EQUAL'} after "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
