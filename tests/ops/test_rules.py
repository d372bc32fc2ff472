"""Rules of the primitives where nothing flows, and what a lowering says of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad

from jax_roipool import backends, lowering
from tests.cases import LAYOUTS, few_values, in_layout
from tests.process import run_python

SIZE = {"output_size": (2, 2), "spatial_scale": ((1.0, 1.0),)}
BOXES = jnp.array([[0, 0, 3, 3], [1, 1, 2, 2.0]])
IMAGE = jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_have_no_tangent(layout):
    """Differentiated by boxes alone, the primitives keep no argmax for it."""
    features = jnp.asarray(in_layout(few_values(1, 4, 5, 3), layout))
    ops = lowering.ops()

    def pool(boxes):
        return ops["roi_pool"].bind(features, boxes, IMAGE, **SIZE, layout=layout)

    def pool_argmax(boxes):
        out = ops["roi_pool_argmax"].bind(features, boxes, IMAGE, **SIZE, layout=layout)
        return out[0]

    for function in (pool, pool_argmax):
        pooled, tangent = jax.jvp(function, (BOXES,), (jnp.ones_like(BOXES),))
        np.testing.assert_array_equal(pooled, pool(BOXES))
        np.testing.assert_array_equal(tangent, jnp.zeros_like(pooled))
    text = str(jax.make_jaxpr(lambda b: jax.jvp(pool, (b,), (b,)))(BOXES))
    assert "roi_pool[" in text
    assert "roi_pool_argmax" not in text


def test_the_transpose_of_nothing_is_nothing():
    ops = lowering.ops()
    maps = jax.core.ShapedArray((1, 4, 5, 3), np.dtype("float32"))
    pooled = jax.core.ShapedArray((2, 2, 2, 3), np.dtype("float32"))
    argmax = jnp.zeros(pooled.shape, jnp.int32)
    params = {
        "roi_gather": {"layout": "NHWC"},
        "roi_scatter": {"layout": "NHWC", "group_ndim": 0, "map_size": (1, 4, 5)},
    }
    for op, operand, result in (
        ("roi_gather", maps, pooled),
        ("roi_scatter", pooled, maps),
    ):
        zero = ad.Zero(result)
        got, *others = ad.primitive_transposes[ops[op].primitive](
            [zero] if ops[op].several_results else zero,
            ad.UndefinedPrimal(operand),
            IMAGE,
            argmax,
            **params[op],
        )
        assert type(got) is ad.Zero
        assert got.aval == operand
        assert others == [None, None]


def test_a_header_without_a_version(tmp_path, monkeypatch):
    header = tmp_path / "xla/ffi/api/c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    assert backends.jaxlib_ffi_version() is None


def test_without_modules_plain_jax_is_what_there_is(monkeypatch):
    for backend in (backends.CPU, backends.CUDA):
        monkeypatch.setitem(vars(backend), "_loaded", (None, "gone"))
        assert backend.problem == "gone"
        assert backend.choices() == ("plain",)
        assert backend.describe() == ["plain JAX: gone"]
    assert backends.CPU.isas == ()


def test_with_jaxs_plugin_the_cuda_kernels_load_at_once():
    """An exported program may be what calls them first."""
    done = run_python(
        """
    import importlib.metadata, importlib.util, types
    import jax
    plugin = types.SimpleNamespace(name="xla_cuda13")
    importlib.metadata.entry_points = lambda group: [plugin]
    loaded = []
    from jax import ffi
    register = ffi.register_ffi_target
    def note(name, capsule, platform="cpu", **more):
        loaded.append(platform)
        return register(name, capsule, platform=platform, **more)
    jax.ffi.register_ffi_target = note
    import jax_roipool
    built = importlib.util.find_spec("jax_roipool._cuda") is not None
    print(loaded.count("CUDA") == 4 * built)
    """
    )
    assert done.stdout.strip() == "True", done.stderr
