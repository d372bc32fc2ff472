"""What a call becomes, where; and what happens without kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import backends, lowering, roi_pool, roi_pool_with_argmax
from tests.cases import LAYOUTS, few_values, in_layout, random_rois
from tests.process import run_python

ROIS = random_rois(6, 2, 7, 9)


def step(x):
    return jax.value_and_grad(lambda x: (roi_pool(x, ROIS, 2) ** 2).sum())(x)


@pytest.mark.parametrize("platform", ["tpu", "rocm"])
def test_platforms_without_kernels_get_plain_jax(kernels, platform):
    traced = jax.jit(step).trace(jnp.ones((2, 7, 9, 3)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("custom_call @jax_roipool_") == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory(lowered_to, layout):
    """300 RoIs on a 38x63x512 map: no copy by the kernels, no blow-up without."""
    features = jnp.ones(in_layout(np.empty((1, 38, 63, 512)), layout).shape)
    rois = random_rois(300, 1, 38, 63, 1 / 16)

    def plain(x):
        return roi_pool(x, rois, 7, 1 / 16, layout=layout)

    def pool(x):
        return roi_pool_with_argmax(x, rois, 7, 1 / 16, layout=layout)

    def gradient(x):
        return jax.grad(lambda x: (plain(x) ** 2).sum())(x)

    most = {}
    for function in (plain, pool, gradient):
        program = jax.jit(function).lower(features).compile()
        temporary = program.memory_analysis().temp_size_in_bytes
        most[function] = temporary
    result = 300 * 7 * 7 * 512 * 4
    if lowered_to == backends.PLAIN:
        # Copies of the result; of the map two, where it is turned.
        assert most[plain] < 2 * result + 2 * features.nbytes
        assert most[pool] < 4 * result + 2 * features.nbytes
        assert most[gradient] < 7 * result + 2 * features.nbytes
    else:
        # Boxes and indices; backward the argmax, pooled and its cotangent.
        assert most[plain] < 1e5
        assert most[pool] < 1e5
        assert most[gradient] < 3.1 * result


def test_eager_calls_do_not_copy_the_map(kernels):
    """The per-image form adds an axis to the map, which eager JAX would copy."""
    features = jnp.ones((2, 64, 64, 64))
    boxes = jnp.ones((2, 3, 4))
    program = jax.jit(lambda f, b: roi_pool(f, b, 2)).lower(features, boxes)
    temporary = program.compile().memory_analysis().temp_size_in_bytes
    assert temporary < features.nbytes / 100
    jaxpr = jax.make_jaxpr(lambda f, b: roi_pool(f, b, 2))(features, boxes)
    assert len(jaxpr.eqns) == 1  # one jit: nothing of it runs on its own


def test_forced_target(kernels):
    for target in backends.CPU.choices():
        done = run_python(
            "from jax_roipool import backends; print(backends.CPU.choice)",
            JAX_ROIPOOL_CPU_TARGET=target,
        )
        assert done.stdout.strip() == target, done.stderr


def test_unknown_target():
    done = run_python("import jax_roipool", JAX_ROIPOOL_CPU_TARGET="sse9")
    assert done.returncode == 1
    assert (
        "ValueError: environment variable JAX_ROIPOOL_CPU_TARGET: 'sse9' is not "
        "available on CPU here; available: " in done.stderr
    )
    with pytest.raises(ValueError, match="'sse9' is not available on CPU here"):
        backends.CPU.use("sse9")


USE_IT = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import jax_roipool
    print(*[w.message for w in caught], sep="\\n")
    import jax, jax.numpy as jnp
    from jax_roipool import backends
    f, r = jnp.arange(16.).reshape(1, 4, 4, 1), jnp.array([[0, 0, 0, 3, 3.]])
    value, grad = jax.value_and_grad(
        lambda f: jax_roipool.roi_pool(f, r, 1).sum())(f)
    print(backends.CPU.choice, value, grad[0, 3, 3, 0])
    print(jnp.ones(3).sum())
"""


def test_a_jaxlib_older_than_the_library(kernels, tmp_path):
    """One message, plain JAX, and a jax that works."""
    from jax_roipool import _cpu

    api = tmp_path / "xla/ffi/api"
    api.mkdir(parents=True)
    (api / "c_api.h").write_text(
        "#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 1\n"
    )
    done = run_python(
        f"""
    import jax
    jax.ffi.include_dir = lambda: {str(tmp_path)!r}
    """
        + USE_IT
    )
    message, values, alive = done.stdout.splitlines()
    version = ".".join(map(str, _cpu.FFI_API_VERSION))
    assert f"compiled for XLA FFI {version} and" in message
    assert "speaks 0.1; upgrade jaxlib" in message
    assert values == "plain 15.0 1.0"
    assert alive == "3.0"


def test_a_jaxlib_that_hides_its_version(kernels, tmp_path):
    done = run_python(
        f"""
    import jax
    jax.ffi.include_dir = lambda: {str(tmp_path)!r}
    """
        + USE_IT
    )
    message, values, _ = done.stdout.splitlines()
    assert "does not tell its FFI version" in message
    assert values == "plain 15.0 1.0"


def test_kernels_that_do_not_load():
    done = run_python(
        """
    import sys, importlib.util
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "jax_roipool._cpu":
                return importlib.util.spec_from_loader(name, self)
        def create_module(self, spec):
            raise ImportError("libgone.so.1: cannot open shared object file")
        def exec_module(self, module): pass
    sys.meta_path.insert(0, Broken())
    """
        + USE_IT
    )
    message, values, _ = done.stdout.splitlines()
    assert "the CPU kernels do not load: libgone.so.1" in message
    assert values == "plain 15.0 1.0"


def test_kernels_that_were_not_built():
    done = run_python(
        """
    import importlib.util
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *args: (
        None if name == "jax_roipool._cpu" else find_spec(name, *args))
    """
        + USE_IT
    )
    message, values, _ = done.stdout.splitlines()
    assert "this installation of jax_roipool has no CPU kernels" in message
    assert values == "plain 15.0 1.0"


def test_ffi_version_is_read():
    version = backends.jaxlib_ffi_version()
    assert version is not None
    assert version >= (0, 3)


# --- What no pooling would say -------------------------------------------------


def test_an_argmax_that_names_no_cell_is_left_out(lowered_to):
    ops = lowering.ops()
    for layout in LAYOUTS:
        image = jnp.array([0, 0, 0, 7, -2], jnp.int32)
        argmax = jnp.array([3, 6, -1, -(2**31), 2**31 - 1, 5, 1, 1, 1, 1])
        argmax = argmax.astype(jnp.int32).reshape(5, 1, 2, 1)
        maps = jnp.asarray(few_values(1, 2, 3, 1)) + 10
        if layout == "NCHW":
            argmax, maps = (
                jnp.moveaxis(argmax, -1, 1),
                jnp.moveaxis(maps, -1, 1),
            )
        gathered = ops["roi_gather"].bind(maps, image, argmax, layout=layout)
        want = np.zeros(10)
        want[0], want[5] = maps.ravel()[3], maps.ravel()[5]
        np.testing.assert_array_equal(gathered.ravel(), want)
        (scattered,) = ops["roi_scatter"].bind(
            jnp.arange(1.0, 11.0).reshape(argmax.shape),
            image,
            argmax,
            group_ndim=0,
            map_size=(1, 2, 3),
            layout=layout,
        )
        np.testing.assert_array_equal(scattered.ravel(), [0, 0, 0, 1, 0, 6])
