"""The Flax modules hold fields and delegate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_roipool import roi_pool
from tests.cases import LAYOUTS, few_values, in_layout, random_rois
from tests.process import run_python

flax = pytest.importorskip("flax")

from flax import linen as nn  # noqa: E402
from flax import nnx as fnnx  # noqa: E402

from jax_roipool import linen, nnx  # noqa: E402

ROIS = random_rois(6, 2, 7, 9, 0.5)
VALID = np.arange(6) % 2 == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modules_equal_the_function(op, layout):
    features = in_layout(few_values(2, 7, 9, 3), layout)
    want = op(features, ROIS, (3, 2), 0.5, valid=VALID, layout=layout)
    of_linen = getattr(linen, op.module)((3, 2), 0.5, layout=layout, **op.static)
    got = of_linen.apply({}, features, ROIS, valid=VALID)
    np.testing.assert_array_equal(got, want)
    of_nnx = getattr(nnx, op.module)((3, 2), 0.5, layout=layout, **op.static)
    np.testing.assert_array_equal(of_nnx(features, ROIS, valid=VALID), want)
    assert of_nnx.output_size == of_linen.output_size == (3, 2)


@pytest.mark.parametrize("module", [linen.RoIPool, nnx.RoIPool])
def test_defaults_are_those_of_the_function(module):
    pool = module(2)
    assert pool.spatial_scale == 1.0
    assert pool.layout == "NHWC"
    assert pool.forward_mode is False


def test_linen_inside_a_network():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, images, rois):
            features = nn.Conv(4, (3, 3), strides=2)(images)
            pooled = linen.RoIPool(2, spatial_scale=0.5)(features, rois)
            return nn.Dense(3)(pooled.reshape(len(rois), -1))

    images = jnp.ones((2, 14, 18, 3))
    head = Head()
    variables = head.init(jax.random.key(0), images, ROIS)
    gradient = jax.jit(jax.grad(lambda v: (head.apply(v, images, ROIS) ** 2).sum()))(
        variables
    )
    kernel = gradient["params"]["Conv_0"]["kernel"]
    assert jnp.abs(kernel).sum() > 0


def test_nnx_inside_a_network():
    class Head(fnnx.Module):
        def __init__(self, rngs):
            self.conv = fnnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
            self.pool = nnx.RoIPool(2, spatial_scale=0.5)
            self.dense = fnnx.Linear(16, 3, rngs=rngs)

        def __call__(self, images, rois):
            pooled = self.pool(self.conv(images), rois)
            return self.dense(pooled.reshape(len(rois), -1))

    head = Head(fnnx.Rngs(0))
    images = jnp.ones((2, 14, 18, 3))

    @fnnx.jit
    def step(head):
        return fnnx.grad(lambda h: (h(images, ROIS) ** 2).sum())(head)

    assert jnp.abs(step(head)["conv"]["kernel"][...]).sum() > 0


def test_forward_mode_reaches_the_op():
    features = jnp.asarray(few_values(2, 7, 9, 3))
    for pool in (
        nnx.RoIPool(2, forward_mode=True),
        lambda f, r: linen.RoIPool(2, forward_mode=True).apply({}, f, r),
    ):
        _, tangent = jax.jvp(lambda f, p=pool: p(f, ROIS), (features,), (features,))
        np.testing.assert_array_equal(tangent, roi_pool(features, ROIS, 2))


def test_the_package_imports_without_flax():
    code = (
        "import sys; sys.modules['flax'] = None; import jax_roipool; "
        "print(jax_roipool.roi_pool.__name__)"
    )
    done = run_python(code)
    assert done.stdout.strip() == "roi_pool", done.stderr
