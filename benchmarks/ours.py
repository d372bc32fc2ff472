"""This package as a contestant."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from inputs import Inputs
from measure import Contestant

from jax_roipool import roi_pool, roi_pool_with_argmax

FORWARD, ARGMAX, BACKWARD = "forward", "argmax", "backward"
BOTH = "forward+backward"
MODES = (FORWARD, ARGMAX, BACKWARD, BOTH)


def features(inputs: Inputs, layout: str) -> jax.Array:
    """The features of `inputs` on the device; one array for all who use it."""
    return inputs.once(
        ("features", layout), lambda: jnp.array(_to_layout(inputs.features, layout))
    )


def contestant(
    name: str,
    inputs: Sequence[Inputs],
    layout: str,
    mode: str,
    limit: str,
    form: str = "flat",
) -> Contestant:
    """One of `MODES` in one layout.

    Args:
      name: Of the contestant.
      inputs: To rotate.
      layout: "NHWC" or "NCHW".
      mode: What is timed; "backward" is the VJP alone, given the argmax.
      limit: See `Contestant`.
      form: "flat" gives RoIs as [K, 5], "batch" as [N, R, 4], and "vmap" as
        [R, 4] to the form for one image, under `jax.vmap`.
    """
    load = inputs[0].load
    valid = [None if x.valid.all() else jnp.array(x.valid) for x in inputs]
    operands = [
        (features(x, layout), _rois(x, form), v)
        for x, v in zip(inputs, valid, strict=True)
    ]

    def of_argument(op: Any) -> Any:
        def call(maps: jax.Array, rois: jax.Array, valid: Any) -> Any:
            return op(maps, rois, load.size, load.scale, valid=valid, layout=layout)

        return jax.vmap(call, (0, 0, None)) if form == "vmap" else call

    pool, with_argmax = of_argument(roi_pool), of_argument(roi_pool_with_argmax)

    def vjp(maps: jax.Array, rois: jax.Array, valid: Any) -> Any:
        return jax.vjp(lambda x: pool(x, rois, valid), maps)

    def both(maps: Any, rois: Any, valid: Any, cotangent: Any) -> Any:
        pooled, backward = vjp(maps, rois, valid)
        return pooled, *backward(cotangent)

    if mode in (BACKWARD, BOTH):
        pooled = jax.eval_shape(pool, *operands[0])
        cotangent = _cotangent(inputs[0], layout, pooled.shape)
    if mode == BACKWARD:
        # One input is enough: the time is that of reading and writing.
        calls = [(jax.jit(vjp)(*operands[0])[1], cotangent)]
        run = jax.jit(lambda backward, cotangent: backward(cotangent))
    elif mode == BOTH:
        calls = [(*given, cotangent) for given in operands]
        run = jax.jit(both)
    else:
        calls = list(operands)
        run = jax.jit(pool if mode == FORWARD else with_argmax)
    jax.block_until_ready(calls)
    compiled = run.lower(*calls[0]).compile()

    names = {
        FORWARD: ("pooled",),
        ARGMAX: ("pooled", "argmax"),
        BACKWARD: ("gradient",),
        BOTH: ("pooled", "gradient"),
    }[mode]

    def check(result: Any) -> str:
        arrays = (result,) if mode == FORWARD else result
        got = {}
        for name, array in zip(names, arrays, strict=True):
            array = np.asarray(array)
            array = array.reshape(-1, *array.shape[-3:])  # [N, R, ...] as [K, ...]
            got[name] = np.moveaxis(array, 1, -1) if layout == "NCHW" else array
        return inputs[0].check(got)

    return Contestant(
        name,
        [
            lambda given=given: jax.block_until_ready(compiled(*given))
            for given in calls
        ],
        check,
        limit,
    )


def _to_layout(array: np.ndarray, layout: str) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if layout == "NCHW" else array


def _rois(inputs: Inputs, form: str) -> jax.Array:
    if form == "flat":
        return jnp.array(inputs.rois)
    return jnp.array(inputs.rois[:, 1:].reshape(inputs.load.shape[0], -1, 4))


def _cotangent(inputs: Inputs, layout: str, shape: tuple[int, ...]) -> jax.Array:
    return inputs.once(
        ("cotangent", layout, shape),
        lambda: jnp.array(
            _to_layout(inputs.cotangent(), layout).astype(inputs.dtype).reshape(shape)
        ),
    )
