"""This package as a contestant."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from inputs import Inputs
from measure import Contestant
from workloads import AlignWorkload, Workload

from jax_roipool import roi_align, roi_pool, roi_pool_with_argmax

FORWARD, ARGMAX, BACKWARD = "forward", "argmax", "backward"
BOTH = "forward+backward"
MODES = (FORWARD, ARGMAX, BACKWARD, BOTH)


def features(inputs: Inputs, layout: str) -> Any:
    """The features of `inputs` on the device; the same arrays for all who use them."""

    def make() -> Any:
        return jax.tree.map(lambda x: jnp.array(_to_layout(x, layout)), inputs.features)

    return inputs.once(("features", layout), make)


def op_of(load: Workload) -> Callable[..., Any]:
    """What pools: (features, rois, valid=, layout=) to the result."""
    if not isinstance(load, AlignWorkload):
        return partial(roi_pool, output_size=load.size, spatial_scale=load.scale)
    return partial(
        roi_align,
        output_size=load.size,
        spatial_scale=load.scales if load.levels > 1 else load.scale,
        sampling_ratio=load.ratio,
        aligned=False,
    )


@dataclasses.dataclass(frozen=True)
class Program:
    """One of `MODES` in one layout, and what to call it with.

    Attributes:
      mode: What it does; "backward" is the VJP alone, given the argmax.
      layout: "NHWC" or "NCHW".
      run: The jitted function.
      operands: Its arguments on the device, for each input.
    """

    mode: str
    layout: str
    run: Any
    operands: list[tuple[Any, ...]]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        """A result as `Inputs.check` takes it."""
        arrays = (result,) if self.mode == FORWARD else result
        got = {}
        for name, array in zip(_RESULTS[self.mode], arrays, strict=True):
            got[name] = jax.tree.map(self._channels_last, array)
        return got

    def _channels_last(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        array = array.reshape(-1, *array.shape[-3:])  # [N, R, ...] as [K, ...]
        return np.moveaxis(array, 1, -1) if self.layout == "NCHW" else array


_RESULTS = {
    FORWARD: ("pooled",),
    ARGMAX: ("pooled", "argmax"),
    BACKWARD: ("gradient",),
    BOTH: ("pooled", "gradient"),
}


def program(
    inputs: Sequence[Inputs],
    layout: str,
    mode: str,
    form: str = "flat",
    op: Callable[..., Any] | None = None,
) -> Program:
    """Makes a program and puts its operands on the device.

    Args:
      inputs: What to call it with.
      layout: "NHWC" or "NCHW".
      mode: One of `MODES`.
      form: "flat" gives RoIs as [K, 5], "batch" as [N, R, 4], and "vmap" as
        [R, 4] to the form for one image, under `jax.vmap`.
      op: Somebody else's, called as that of `op_of`.
    """
    load = inputs[0].load
    valid = [None if x.valid.all() else jnp.array(x.valid) for x in inputs]
    operands: list[tuple[Any, ...]] = [
        (features(x, layout), _rois(x, form), v)
        for x, v in zip(inputs, valid, strict=True)
    ]

    if mode == ARGMAX:
        op = partial(
            roi_pool_with_argmax, output_size=load.size, spatial_scale=load.scale
        )
    op = op or op_of(load)

    def call(maps: Any, rois: jax.Array, valid: Any) -> Any:
        return op(maps, rois, valid=valid, layout=layout)

    pool = jax.vmap(call, (0, 0, None)) if form == "vmap" else call

    def vjp(maps: Any, rois: jax.Array, valid: Any) -> Any:
        return jax.vjp(lambda x: pool(x, rois, valid), maps)

    def both(maps: Any, rois: Any, valid: Any, cotangent: Any) -> Any:
        pooled, backward = vjp(maps, rois, valid)
        return pooled, *backward(cotangent)

    if mode in (BACKWARD, BOTH):
        shape = jax.eval_shape(pool, *operands[0]).shape
    if mode == BACKWARD:
        forward = jax.jit(vjp)
        operands = [
            (forward(*given)[1], _cotangent(x, layout, shape))
            for x, given in zip(inputs, operands, strict=True)
        ]
        run = jax.jit(lambda backward, cotangent: backward(cotangent))
    elif mode == BOTH:
        cotangent = _cotangent(inputs[0], layout, shape)
        operands = [(*given, cotangent) for given in operands]
        run = jax.jit(both)
    else:
        run = jax.jit(pool)
    jax.block_until_ready(operands)
    return Program(mode, layout, run, operands)


def contestant(
    name: str,
    inputs: Sequence[Inputs],
    layout: str,
    mode: str,
    limit: str,
    form: str = "flat",
    op: Callable[..., Any] | None = None,
) -> Contestant:
    """A program as a contestant.

    Args:
      name: Of the contestant.
      inputs: To rotate. One is enough for "backward": the time is that of
        reading and writing.
      layout: See `program`.
      mode: See `program`.
      limit: See `Contestant`.
      form: See `program`.
      op: See `program`.
    """
    made = program(inputs[:1] if mode == BACKWARD else inputs, layout, mode, form, op)
    compiled = made.run.lower(*made.operands[0]).compile()
    return Contestant(
        name,
        [
            lambda given=given: jax.block_until_ready(compiled(*given))
            for given in made.operands
        ],
        lambda result: inputs[0].check(made.named(result), op is not None),
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
