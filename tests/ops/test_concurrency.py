"""Many calls at once: none waits for another, and all agree."""

import concurrent.futures
import os
import pathlib
import sys
import sysconfig
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import _interpreter, roi_pool
from tests.cases import (
    LAYOUTS,
    assert_same,
    channels_last,
    few_values,
    in_layout,
    normal,
    random_rois,
    rng,
)
from tests.oracle import roi_pool as oracle
from tests.process import run_python


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here"
)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_48_gradients_in_one_graph_on_one_core(kernels, layout):
    """A handler that waited for its pool's tasks would never end here."""
    code = f"""
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        import jax, jax.numpy as jnp, numpy as np
        from jax_roipool import roi_pool
        features = jnp.ones((2, 24, 24, 32))
        boxes = np.random.default_rng(0).uniform(0, 24, (48, 40, 4))
        rois = np.insert(np.sort(boxes), 0, 1, axis=2).astype(np.float32)
        def loss(f, r):
            return (roi_pool(f, r, 7, layout={layout!r}) ** 2).sum()
        @jax.jit
        def gradients(f):
            return sum(jax.grad(loss)(f * (i + 1), r)
                       for i, r in enumerate(rois))
        for _ in range(5):
            total = gradients(features).block_until_ready()
        print(np.isfinite(total).all())
    """
    done = run_python(code)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_8_threads_agree(kernels, layout):
    shape = (2, 20, 21, 64) if layout == "NHWC" else (2, 64, 20, 21)
    features = jnp.asarray(normal(*shape))
    rois = random_rois(100, 2, 20, 21)

    @jax.jit
    def step(f):
        def loss(f):
            return (roi_pool(f, rois, 7, layout=layout) ** 3).sum()

        return jax.value_and_grad(loss)(f)

    def bits(_):
        return b"".join(np.asarray(x).tobytes() for x in step(features))

    want = bits(0)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for got in threads.map(bits, range(200)):
            assert got == want


def test_threads_do_not_change_a_bit(kernels):
    """One core and all of them: the same gradient."""
    code = """
        import os, sys
        cores = sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]
        os.sched_setaffinity(0, cores)
        import hashlib, jax, numpy as np
        from jax_roipool import roi_pool
        r = np.random.default_rng(0)
        rois = np.insert(np.sort(r.uniform(0, 24, (200, 4))), 0,
                         r.integers(0, 2, 200), axis=1)
        # Two images of three blocks of channels: six units of backward work.
        for layout, shape in ("NHWC", (2, 24, 24, 96)), ("NCHW", (2, 96, 24, 24)):
            for dtype in ("float32", "bfloat16"):
                f = jax.numpy.asarray(r.standard_normal(shape), dtype)
                g = jax.grad(lambda f: (
                    roi_pool(f, rois, 7, layout=layout).astype("float32") ** 3
                ).sum())(f)
                print(hashlib.sha256(np.asarray(g).tobytes()).hexdigest())
    """
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("cores cannot be chosen here")
    printed = [run_python(code, cores).stdout for cores in ("1", "64")]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 4


def test_many_executables_at_once(kernels):
    """Each thread compiles and runs calls of its own, while others do."""

    def work(seed):
        r = rng(seed)
        height, width, channels = (int(x) for x in r.integers(3, 20, 3))
        size = tuple(int(x) for x in r.integers(1, 6, 2))
        layout = LAYOUTS[seed % 2]
        features = few_values(2, height, width, channels, seed=seed)
        rois = random_rois(30, 2, height, width, seed=seed)
        pooled, argmax = oracle.roi_pool(features, rois, size, (1, 1))
        cotangent = r.integers(-2, 3, pooled.shape).astype(np.float32)
        want = oracle.scatter(cotangent, rois, argmax, features.shape)

        @jax.jit
        def run(features, cotangent):
            got, pull = jax.vjp(
                lambda f: roi_pool(f, rois, size, layout=layout), features
            )
            return got, pull(cotangent)[0]

        operands = in_layout(features, layout), in_layout(cotangent, layout)
        for _ in range(3):
            got = run(*operands)
            assert_same(channels_last(got[0], layout), pooled)
            assert_same(channels_last(got[1], layout), want)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(work, range(32)))) == 32


SUM_OF_BITS = """
    import hashlib, sys, jax, numpy as np
    from jax_roipool import roi_pool
    r = np.random.default_rng(0)
    rois = np.insert(np.sort(r.uniform(0, 24, (200, 4))), 0,
                     r.integers(0, 2, 200), axis=1)
    f = r.standard_normal((2, 24, 24, 96)).astype(np.float32)
    def step(f):
        pooled, pull = jax.vjp(lambda f: roi_pool(f, rois, 7), f)
        return pooled, pull(pooled ** 3)[0]
    for x in jax.jit(step)(f):
        print(hashlib.sha256(np.asarray(x).tobytes()).hexdigest())
"""


def test_thread_pools_of_any_size(kernels):
    """XLA takes the size of its pool from NPROC; the bits stay."""
    printed = [run_python(SUM_OF_BITS, NPROC=str(n)) for n in (1, 64)]
    assert len(printed[0].stdout.split()) == 2, printed[0].stderr
    assert len({done.stdout for done in printed}) == 1


def test_64_virtual_devices(lowered_to):
    """Per-image RoIs over 64 devices: the bits of one, forward and backward."""
    code = """
        import sys, jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from jax_roipool import backends, roi_pool
        backends.CPU.use(sys.argv[1])
        mesh = Mesh(np.array(jax.devices()), ("x",))
        r = np.random.default_rng(0)
        features = r.standard_normal((64, 6, 7, 5)).astype(np.float32)
        boxes = r.uniform(-1, 8, (64, 4, 4)).astype(np.float32)
        @jax.jit
        def step(features, boxes):
            pooled, pull = jax.vjp(lambda f: roi_pool(f, boxes, 2), features)
            return pooled, pull(pooled ** 3)[0]
        shard = lambda x: jax.device_put(x, NamedSharding(mesh, P("x")))
        got, want = step(shard(features), shard(boxes)), step(features, boxes)
        assert all(len(x.sharding.device_set) == 64 for x in got)
        print(*[(np.asarray(x) == np.asarray(y)).all() for x, y in zip(got, want)])
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} "
    flags += "--xla_force_host_platform_device_count=64"
    done = run_python(code, lowered_to, XLA_FLAGS=flags)
    assert done.stdout.split() == ["True", "True"], done.stderr


# --- Processes, interpreters, the end -------------------------------------------

FORK = """
    import os, sys, warnings
    import jax, numpy as np
    from jax_roipool import roi_pool
    features = np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3)
    rois = np.float32([[0, 0, 0, 3, 3]])
    def use():
        gradient = jax.grad(lambda f: roi_pool(f, rois, 1).sum())(features)
        assert np.asarray(gradient).sum() == 3 and gradient[0, 3, 3, 0] == 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_import(kernels):
    """As long as nothing has run: the child and its parent both work."""
    done = run_python(
        FORK
        + """
    child = os.fork()
    use()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        print("both")
    else:
        sys.stdout.flush()
        os._exit(0)
    """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "both"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use_is_warned_of(kernels):
    """The child has none of JAX's threads, and any operation may hang in it.

    JAX says so; the parent goes on.
    """
    done = run_python(
        FORK
        + """
    use()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        child = os.fork()
        if child == 0:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert any("JAX is multithreaded" in str(w.message) for w in caught), caught
    use()
    print("parent")
    """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "parent"


@pytest.mark.parametrize("ending", ["", "threading.Thread(target=work).start()"])
def test_the_interpreter_ends_during_calls(kernels, ending):
    """Calls that nobody waits for, of the main thread and of another one."""
    done = run_python(
        f"""
    import threading, jax, numpy as np
    from jax_roipool import roi_pool
    r = np.random.default_rng(0)
    features = r.standard_normal((2, 64, 64, 64)).astype(np.float32)
    boxes = np.sort(r.uniform(0, 64, (2, 300, 4))).astype(np.float32)
    step = jax.jit(jax.grad(lambda f: (roi_pool(f, boxes, 7) ** 2).sum()))
    step(features).block_until_ready()
    def work():
        for _ in range(20):
            step(features)
    {ending or "work()"}
    print("end")
    """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "end"


def test_a_subinterpreter_is_refused():
    """JAX would end the process (Python 3.11) or refuse in words about itself."""
    done = run_python(
        """
    from jax_roipool import _interpreter
    interpreters = _interpreter.known_interpreters()
    created = interpreters.create()
    try:
        failed = interpreters.run_string(created, "import jax_roipool")
        print(failed.msg)  # Python 3.13
    except interpreters.RunFailedError as error:
        print(error)
    import jax_roipool
    print("main goes on")
    """
    )
    assert done.returncode == 0, done.stderr
    refusal, after = done.stdout.splitlines()
    assert "jax_roipool cannot be imported in a subinterpreter" in refusal
    assert after == "main goes on"


def test_interpreters_are_told_apart():
    known = _interpreter.known_interpreters()
    assert known.get_current() == known.get_main()
    elsewhere = types.SimpleNamespace(get_current=lambda: 1, get_main=lambda: 0)
    with pytest.raises(ImportError, match="cannot be imported in a subinterpreter"):
        _interpreter.refuse_subinterpreters(elsewhere)


def test_without_a_gil():
    """What the modules declare: that a free-threaded Python keeps its GIL off.

    No such Python runs here; where one does, importing must not switch it on.
    """
    source = pathlib.Path(__file__).parents[2] / "csrc"
    for module in ("cpu", "cuda"):
        text = (source / module / "module.cc").read_text(encoding="utf-8")
        assert f"PYBIND11_MODULE(_{module}, module, py::mod_gil_not_used())" in text
    if hasattr(sys, "_is_gil_enabled") and sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled()
