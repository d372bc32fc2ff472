"""Sharded arrays and shard_map: right values and gradients.

What moves between devices, and how much, is not tested here.
"""

import os
import re
import subprocess
import sys

import pytest

DEVICES = 4

# Set in the process that this file starts, whatever XLA_FLAGS the user has.
INSIDE = "JAX_ROIPOOL_TEST_FOUR_DEVICES"

if INSIDE not in os.environ:

    def test_on_four_devices():
        """This file again, where the CPU counts as four devices."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                INSIDE: "1",
                "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
                + f" --xla_force_host_platform_device_count={DEVICES}",
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed is not None
        assert int(passed[1]) > 30

else:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jax_roipool import lowering, roi_pool, roi_pool_with_argmax, valid_rois
    from tests.cases import LAYOUTS, few_values, in_layout, random_rois

    FEATURES = few_values(4, 8, 8, 4)
    FLAT = random_rois(8, 4, 8, 8, seed=1)
    PER_IMAGE = random_rois(16, 1, 8, 8, seed=2)[:, 1:].reshape(4, 4, 4)

    def loss(features, rois, layout="NHWC", valid=None):
        return (roi_pool(features, rois, 3, layout=layout, valid=valid) ** 2).sum()

    # features, rois: the axes that may stay sharded, those that may not, both
    # on one mesh axis.
    SPECS = [
        (P(), P("d")),
        (P("d"), P()),
        (P("d"), P("d")),
        (P(None, None, None, "d"), P()),
        (P(None, "d"), P("d")),
        (P(None, None, "d"), P(None, "d")),
        (P(None, None, None, "d"), P("d")),
    ]

    @pytest.fixture(params=["auto", "explicit"])
    def mesh(request):
        kind = AxisType.Auto if request.param == "auto" else AxisType.Explicit
        return jax.make_mesh((DEVICES,), ("d",), axis_types=(kind,))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("form", ["flat", "per image"])
    def test_jit(lowered_to, mesh, form, layout):
        if lowered_to == lowering.PORTABLE and layout == "NCHW":
            pytest.skip("plain JAX turns NCHW into NHWC first")
        rois = FLAT if form == "flat" else PER_IMAGE
        features = in_layout(FEATURES, layout)
        valid = np.arange(rois[..., 0].size).reshape(rois.shape[:-1]) % 3 > 0

        def everything(features, rois, valid):
            pooled, argmax = roi_pool_with_argmax(
                features, rois, 3, layout=layout, valid=valid
            )
            gradient = jax.grad(loss)(features, rois, layout, valid)
            return pooled, argmax, gradient, valid_rois(features, rois, layout=layout)

        want = jax.jit(everything)(features, rois, valid)
        with jax.set_mesh(mesh):
            for spec, rois_spec in SPECS:
                if form == "flat" and len(rois_spec) > 1:
                    rois_spec = P("d")
                operands = (
                    jax.device_put(features, NamedSharding(mesh, spec)),
                    jax.device_put(rois, NamedSharding(mesh, rois_spec)),
                    jax.device_put(valid, NamedSharding(mesh, P())),
                )
                got = jax.jit(everything)(*operands)
                for x, y in zip(got, want, strict=True):
                    np.testing.assert_array_equal(x, y, err_msg=f"{spec} {rois_spec}")

    @pytest.mark.parametrize("check_vma", [True, False])
    @pytest.mark.parametrize("vary", ["rois", "both"])
    @pytest.mark.parametrize("forward_mode", [True, False])
    def test_shard_map(lowered_to, check_vma, vary, forward_mode):
        mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
        if vary == "rois":
            features, rois, in_specs = FEATURES, FLAT, (P(), P("d"))
        else:
            features, rois, in_specs = FEATURES, PER_IMAGE, (P("d"), P("d"))

        def local_loss(features, rois):
            pooled = roi_pool(features, rois, 3, forward_mode=forward_mode)
            return (pooled**2).sum()

        want = jax.grad(local_loss)(features, rois)

        def outside(features):
            def total(features, rois):
                return jax.lax.psum(local_loss(features, rois), "d")

            return jax.shard_map(
                total, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=check_vma
            )(features, rois)

        np.testing.assert_array_equal(jax.jit(jax.grad(outside))(features), want)

        def inside(features, rois):
            gradient = jax.grad(local_loss)(features, rois)
            if vary == "rois" and not check_vma:
                gradient = jax.lax.psum(gradient, "d")  # check_vma=True adds it
            return gradient

        got = jax.jit(
            jax.shard_map(
                inside,
                mesh=mesh,
                in_specs=in_specs,
                out_specs=in_specs[0],
                check_vma=check_vma,
            )
        )(features, rois)
        np.testing.assert_array_equal(got, want)

    def test_an_array_off_the_mesh(lowered_to):
        mesh = jax.make_mesh((DEVICES,), ("d",))
        want = jax.grad(loss)(FEATURES, FLAT)
        off_mesh = jnp.asarray(FEATURES), jnp.asarray(FLAT)
        with jax.set_mesh(mesh):
            features = jax.device_put(FEATURES, P(None, None, None, "d"))
            rois = jax.device_put(FLAT, P("d"))
            valid = jax.device_put(np.ones(8, bool), P("d"))
            for operands in ((off_mesh[0], rois), (features, off_mesh[1])):
                gradient = jax.jit(jax.grad(loss))(*operands)
                np.testing.assert_array_equal(gradient, want)
            got = valid_rois(off_mesh[0], off_mesh[1], valid=valid)
            np.testing.assert_array_equal(got, True)
            pooled = roi_pool(features, rois, 3, valid=valid)
            np.testing.assert_array_equal(pooled, roi_pool(FEATURES, FLAT, 3))

    def test_valid_rois_varies_as_the_rois_do():
        mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
        got = jax.shard_map(
            lambda f, r: valid_rois(f, r),
            mesh=mesh,
            in_specs=(P(None, None, None, "d"), P()),
            out_specs=P(),
        )(FEATURES, FLAT)
        np.testing.assert_array_equal(got, True)

    @pytest.mark.parametrize("explicit", [False, True])
    def test_vmap_with_spmd_axis_name(lowered_to, explicit):
        kind = AxisType.Explicit if explicit else AxisType.Auto
        mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(kind,))
        features, rois = few_values(4, 2, 8, 8, 4), random_rois(12, 2, 8, 8)
        rois = rois.reshape(4, 3, 5)
        name = None if explicit else "d"
        gradient = jax.vmap(jax.grad(loss), spmd_axis_name=name)
        want = gradient(features, rois)
        with jax.set_mesh(mesh):
            operands = (
                jax.device_put(x, NamedSharding(mesh, P("d"))) for x in (features, rois)
            )
            got = jax.jit(gradient)(*operands)
        np.testing.assert_array_equal(got, want)

    def test_types_say_how_the_result_is_sharded():
        mesh = jax.make_mesh((DEVICES,), ("d",))
        with jax.set_mesh(mesh):
            channels = jax.device_put(FEATURES, P(None, None, None, "d"))
            rois = jax.device_put(jnp.asarray(FLAT), P("d"))

            def spec(features, rois):
                out = jax.eval_shape(lambda f, r: roi_pool(f, r, 3), features, rois)
                return out.sharding.spec

            assert spec(channels, FLAT) == P(None, None, None, "d")
            assert spec(jnp.asarray(FEATURES), rois) == P("d", None, None, None)
            # One axis cannot shard both: the RoIs give way.
            assert spec(channels, rois) == P(None, None, None, "d")
