"""Exported programs: sizes known later, another process, the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jax_roipool import export_disabled_checks, roi_pool
from tests.cases import LAYOUTS, few_values, in_layout, random_rois
from tests.process import run_python


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["flat", "per image", "one image"])
def test_symbolic_sizes(lowered_to, form, layout):
    n, h, w, c, k = export.symbolic_shape("n, h, w, c, k")
    channels_first = layout == "NCHW"
    map_shape = (c, h, w) if channels_first else (h, w, c)
    shapes = {
        "flat": ((n, *map_shape), (k, 5)),
        "per image": ((n, *map_shape), (n, k, 4)),
        "one image": (map_shape, (k, 4)),
    }[form]

    def loss(features, rois):
        return (roi_pool(features, rois, 3, 0.5, layout=layout) ** 2).sum()

    step = jax.value_and_grad(loss)
    exported = export.export(jax.jit(step), disabled_checks=export_disabled_checks())(
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
            np.testing.assert_array_equal(x, y)


def test_another_process_runs_it_and_its_gradient(kernels, tmp_path):
    pytest.importorskip("flatbuffers")
    features, rois = few_values(2, 6, 7, 5), random_rois(4, 2, 6, 7)
    exported = export.export(
        jax.jit(lambda f: roi_pool(f, rois, 2)),
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
    np.testing.assert_array_equal(pooled, roi_pool(features, rois, 2))
    want = jax.grad(lambda f: (roi_pool(f, rois, 2) ** 2).sum())(features)
    np.testing.assert_array_equal(gradient, want)


def test_it_is_refused_without_the_list(kernels):
    features, rois = few_values(2, 6, 7, 5), random_rois(4, 2, 6, 7)
    exported = export.export(jax.jit(lambda f: roi_pool(f, rois, 2)))
    with pytest.raises(ValueError, match="jax_roipool_roi_pool"):
        exported(features)
