"""Exported programs: sizes known later, another process, the gradient."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jax_roipool import export_disabled_checks, roi_pool
from tests.cases import LAYOUTS, custom_calls, few_values, in_layout, random_rois
from tests.process import run_python


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["flat", "per image", "one image"])
def test_symbolic_sizes(lowered_to, op, form, layout):
    n, h, w, c, k = export.symbolic_shape("n, h, w, c, k")
    channels_first = layout == "NCHW"
    map_shape = (c, h, w) if channels_first else (h, w, c)
    shapes = {
        "flat": ((n, *map_shape), (k, 5)),
        "per image": ((n, *map_shape), (n, k, 4)),
        "one image": (map_shape, (k, 4)),
    }[form]

    def loss(features, rois):
        return (op(features, rois, 3, 0.5, layout=layout) ** 2).sum()

    step = jax.jit(jax.value_and_grad(loss))
    exported = export.export(step, disabled_checks=export_disabled_checks())(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    )
    for images, height, width, depth, count in ((2, 6, 7, 5, 4), (3, 9, 4, 17, 1)):
        features = few_values(images, height, width, depth)
        rois = random_rois(images * count, images, height, width, 0.5)
        if form == "flat":
            rois = rois[:count]
        elif form == "per image":
            rois = rois[:, 1:].reshape(images, count, 4)
        else:
            features, rois = features[0], rois[:count, 1:]
        features = in_layout(features, layout)
        got = exported.call(features, rois)
        for x, y in zip(got, step(features, rois), strict=True):
            op.assert_agrees(x, y)


def test_another_process_runs_it_and_its_gradient(kernels, op, tmp_path):
    pytest.importorskip("flatbuffers")
    features, rois = few_values(2, 6, 7, 5), random_rois(4, 2, 6, 7)
    exported = export.export(
        jax.jit(lambda f: op(f, rois, 2)),
        disabled_checks=export_disabled_checks(),
    )(jax.ShapeDtypeStruct(features.shape, jnp.float32))
    (tmp_path / "program").write_bytes(exported.serialize(vjp_order=1))
    np.save(tmp_path / "features.npy", features)
    code = f"""
        import pathlib, numpy as np, jax, jax_roipool
        here = pathlib.Path({str(tmp_path)!r})
        program = jax.export.deserialize((here / "program").read_bytes())
        features = np.load(here / "features.npy")
        np.save(here / "pooled.npy", program.call(features))
        gradient = jax.grad(lambda f: (program.call(f) ** 2).sum())(features)
        np.save(here / "gradient.npy", gradient)
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    pooled, gradient = (np.load(tmp_path / f"{x}.npy") for x in ("pooled", "gradient"))
    op.assert_agrees(pooled, op(features, rois, 2))
    want = jax.grad(lambda f: (op(f, rois, 2) ** 2).sum())(features)
    op.assert_agrees(gradient, want)


def test_it_is_refused_without_the_list(kernels, op):
    features, rois = few_values(2, 6, 7, 5), random_rois(4, 2, 6, 7)
    exported = export.export(jax.jit(lambda f: op(f, rois, 2)))
    with pytest.raises(ValueError, match="jax_roipool_" + next(iter(op.calls[0]))):
        exported(features)


# Exported before ops had records, with all four custom calls of roi_pool: programs
# of old keep running.
OLD = pathlib.Path(__file__).parents[1] / "exported" / "before_families.bin"


def test_a_program_of_an_earlier_version_runs(kernels):
    pytest.importorskip("flatbuffers")
    program = export.deserialize(OLD.read_bytes())
    text = program.mlir_module()
    assert custom_calls(text) == {
        "roi_gather": 1,
        "roi_pool": 1,
        "roi_pool_argmax": 2,
        "roi_scatter": 1,
    }
    features, rois = few_values(2, 9, 11, 5), random_rois(7, 2, 9, 11, 0.4)

    def today(features, rois):
        def pool(f, **kwargs):
            return roi_pool(f, rois, (3, 2), (0.5, 0.25), **kwargs)

        gradient = jax.grad(lambda f: (pool(f) ** 2).sum())(features)
        forward = partial(pool, forward_mode=True)
        tangent = jax.jvp(forward, (features,), (features + 1,))[1]
        return pool(features), gradient, tangent

    for got, want in zip(
        program.call(features, rois), today(features, rois), strict=True
    ):
        assert np.any(want)
        np.testing.assert_array_equal(got, want)
