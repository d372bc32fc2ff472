"""What a call becomes on CUDA, with that module and without; no GPU needed."""

import importlib
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_roipool
from jax_roipool import (
    backends,
    lowering,
    roi_align,
    roi_pool,
    roi_pool_with_argmax,
)
from tests.cases import random_rois
from tests.process import run_python

ROIS = random_rois(6, 2, 7, 9)
FEATURES = jax.ShapeDtypeStruct((2, 7, 9, 3), jnp.float32)
MAP = np.ones(FEATURES.shape, np.float32)


class StandIn:
    """Finds a module in the place of `_cuda`: lowering asks for names alone."""

    FFI_API_VERSION, CUDA_VERSION, ARCHITECTURES = (0, 1), 13000, "none"

    def find_spec(self, name, path=None, target=None):
        if name == "jax_roipool._cuda":
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.FFI_API_VERSION = self.FFI_API_VERSION
        module.CUDA_VERSION = self.CUDA_VERSION
        module.ARCHITECTURES = self.ARCHITECTURES
        module.driver_version = lambda: 0
        module.ffi_targets = importlib.import_module("jax_roipool._cpu").ffi_targets


@pytest.fixture(scope="module")
def built():
    """The CUDA module, or where none was built one that has its names."""
    if backends.CUDA.built:
        assert backends.CUDA.problem == ""
        yield
        return
    finder = StandIn()
    sys.meta_path.insert(0, finder)
    vars(backends.CUDA).pop("_loaded", None)
    for op in lowering.ops().values():
        lowering.lower(op)
    try:
        assert backends.CUDA.problem == ""
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop("jax_roipool._cuda", None)
        for cached in ("_loaded", "_targets"):
            vars(backends.CUDA).pop(cached, None)
        jax.clear_caches()


def text_for(function, *operands, platform="cuda"):
    traced = jax.jit(function).trace(*operands)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def pool(x):
    return roi_pool(x, ROIS, 2)


def loss(x):
    return (pool(x) ** 2).sum()


@pytest.mark.parametrize(
    ("function", "operands", "targets"),
    [
        (pool, (FEATURES,), ["roi_pool"]),
        (
            lambda x: roi_pool_with_argmax(x, ROIS, 2, layout="NCHW"),
            (jax.ShapeDtypeStruct((2, 3, 7, 9), jnp.bfloat16),),
            ["roi_pool_argmax"],
        ),
        (jax.grad(loss), (FEATURES,), ["roi_pool_argmax", "roi_scatter"]),
        (
            jax.vmap(jax.grad(loss)),
            (jax.ShapeDtypeStruct((4, 2, 7, 9, 3), jnp.float16),),
            ["roi_pool_argmax", "roi_scatter"],
        ),
        (
            jax.grad(lambda x: roi_align(x, ROIS, 2).sum()),
            (FEATURES,),
            ["roi_align_transpose"],
        ),
        (
            jax.grad(lambda r: roi_align(MAP, r, 2, box_gradient=True).sum()),
            (jax.ShapeDtypeStruct((6, 5), jnp.float32),),
            ["roi_align_box_gradient"],
        ),
        (
            lambda x, t: jax.jvp(
                lambda x: roi_pool(x, ROIS, 2, forward_mode=True), (x,), (t,)
            ),
            (FEATURES, FEATURES),
            ["roi_gather", "roi_pool_argmax"],
        ),
    ],
    ids=["jit", "argmax", "grad", "vmap", "linear", "boxes", "jvp"],
)
def test_custom_calls(built, function, operands, targets):
    text = text_for(function, *operands)
    calls = [
        line.split("custom_call @jax_roipool_")[1].split("(")[0]
        for line in text.splitlines()
        if "custom_call @jax_roipool_" in line
    ]
    assert sorted(calls) == targets


def test_the_workspace_is_a_result(built):
    text = text_for(jax.grad(loss), FEATURES)
    (scatter,) = [t for t in text.splitlines() if "@jax_roipool_roi_scatter" in t]
    assert scatter.rstrip().endswith("(tensor<2x7x9x3xf32>, tensor<6x2xi32>)")
    text = text_for(lambda x: roi_align(x, ROIS, 2), FEATURES)
    (align,) = [t for t in text.splitlines() if "@jax_roipool_roi_align" in t]
    assert align.rstrip().endswith("(tensor<6x2x2x3xf32>, tensor<6x128xi32>)")


def test_both_platforms_in_one_export(built):
    exported = jax.export.export(
        jax.jit(jax.grad(loss)),
        platforms=("cpu", "cuda"),
        disabled_checks=jax_roipool.export_disabled_checks(),
    )(FEATURES)
    assert exported.mlir_module().count("@jax_roipool_roi_scatter") == 2
    x = np.arange(2 * 7 * 9 * 3, dtype=np.float32).reshape(2, 7, 9, 3)
    np.testing.assert_array_equal(exported.call(x), jax.grad(loss)(x))


def test_symbolic_sizes(built):
    n, k = jax.export.symbolic_shape("n, k")
    exported = jax.export.export(
        jax.jit(jax.grad(lambda x, r: roi_pool(x, r, 2).sum())),
        platforms=("cuda",),
        disabled_checks=jax_roipool.export_disabled_checks(),
    )(
        jax.ShapeDtypeStruct((n, 7, 9, 3), jnp.float32),
        jax.ShapeDtypeStruct((k, 5), jnp.float32),
    )
    assert "tensor<?x2xi32>" in exported.mlir_module()
    n, h, w, k = jax.export.symbolic_shape("n, h, w, k")
    exported = jax.export.export(
        jax.jit(jax.grad(lambda x, r: roi_align(x, r, 2).sum())),
        platforms=("cuda",),
        disabled_checks=jax_roipool.export_disabled_checks(),
    )(
        jax.ShapeDtypeStruct((n, h, w, 3), jnp.float32),
        jax.ShapeDtypeStruct((k, 5), jnp.float32),
    )
    assert "-> (tensor<?x?x?x3xf32>, tensor<?x?xi32>)" in exported.mlir_module()


def test_forced_to_plain_jax(built):
    before = backends.CUDA.choice
    backends.CUDA.use("plain")
    try:
        assert "custom_call @jax_roipool" not in text_for(loss, FEATURES)
    finally:
        backends.CUDA.use(before)
    assert "custom_call @jax_roipool" in text_for(loss, FEATURES)
    with pytest.raises(ValueError, match="'avx2' is not available on CUDA here"):
        backends.CUDA.use("avx2")


# --- Where the module cannot be used ------------------------------------------

LOWER = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import jax, jax.numpy as jnp
        import jax_roipool
        from jax_roipool import backends
        f, r = jnp.ones((1, 4, 4, 1)), jnp.array([[0, 0, 0, 3, 3.]])
        for _ in range(2):
            traced = jax.jit(lambda f: jax_roipool.roi_pool(f, r, 1)).trace(f)
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
            jax.clear_caches()
    print("jax_roipool_roi_pool" in text, backends.CUDA.choice)
    print(*[w.message for w in caught], sep="\\n")
"""

# A module in the place of the one that is built, or is not.
FAKE = """
    import importlib.util, sys
    class Fake:
        def find_spec(self, name, path=None, target=None):
            if name == "jax_roipool._cuda":
                return importlib.util.spec_from_loader(name, self)
        def create_module(self, spec): {create}
        def exec_module(self, module):
            module.FFI_API_VERSION = (0, 1)
            module.CUDA_VERSION = 13000
            module.driver_version = lambda: {driver}
            from jax_roipool import _cpu
            module.ffi_targets = _cpu.ffi_targets
    sys.meta_path.insert(0, Fake())
"""


def test_a_module_that_was_not_built():
    """Nothing is said: CUDA was not asked for."""
    done = run_python(
        """
    import importlib.util
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *args: (
        None if name == "jax_roipool._cuda" else find_spec(name, *args))
    """
        + LOWER
    )
    assert done.stdout.splitlines() == ["False plain", ""], done.stderr


@pytest.mark.parametrize(
    ("create", "driver", "message"),
    [
        (
            'raise ImportError("libgone.so.1: cannot open shared object file")',
            0,
            "the CUDA kernels do not load: libgone.so.1",
        ),
        (
            "return None",
            12090,
            "compiled with CUDA 13.0 and the installed driver supports 12.9; "
            "upgrade the driver to 580 or newer",
        ),
    ],
)
def test_a_module_that_cannot_be_used(create, driver, message):
    """One message, and plain JAX."""
    done = run_python(FAKE.format(create=create, driver=driver) + LOWER)
    first, *warned = done.stdout.splitlines()
    assert first == "False plain", done.stderr
    assert len(warned) == 1
    assert "plain-JAX lowering on CUDA: " in warned[0]
    assert message in warned[0]


@pytest.mark.parametrize("driver", [0, 13000, 13020])
def test_a_module_that_can(driver):
    done = run_python(FAKE.format(create="return None", driver=driver) + LOWER)
    assert done.stdout.splitlines() == ["True kernels", ""], done.stderr


def test_unknown_target():
    done = run_python("import jax_roipool", JAX_ROIPOOL_CUDA_TARGET="ptx")
    assert done.returncode == 1
    assert "environment variable JAX_ROIPOOL_CUDA_TARGET: 'ptx' is not" in (done.stderr)
