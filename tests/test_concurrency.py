"""Many calls at once: none waits for another, and all agree."""

import concurrent.futures
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_pool
from tests.cases import normal, random_rois
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
