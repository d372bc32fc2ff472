"""Greedy suppression as an op: in plain JAX, and its record."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_roipool import lowering
from jax_roipool.boxes.overlaps import pair_overlaps
from jax_roipool.primitive import Op

# The key of a box that is never chosen and suppresses nothing.
_NEVER = np.int32(-(2**31))

# Boxes compared at once: a tile of T takes T * T overlaps. 128 to 512 are alike in
# time.
_TILE = 256


def order_keys(scores: Array, some: Array) -> Array:
    """int32 that are ordered as float32 scores are, and of the others -2**31.

    By their bits: XLA on CPU takes subnormal numbers for zero. -0 equals 0.
    """
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    keys = jnp.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return jnp.where(some, keys, _NEVER)


def class_keys(classes: Array | None, like: Array) -> Array:
    """int32 that are equal where classes are; of one class where there are none."""
    if classes is None:
        return jnp.zeros_like(like)
    if classes.dtype == jnp.uint32:
        return jax.lax.bitcast_convert_type(classes, jnp.int32)
    if classes.dtype.itemsize < 8:
        return classes.astype(jnp.int32)
    return jnp.searchsorted(jnp.sort(classes), classes).astype(jnp.int32)


def _plain(
    boxes: Array,
    keys: Array,
    classes: Array,
    threshold: Array,
    *,
    max_outputs: tuple[int],
    inclusive: bool,
) -> Array:
    """Tile after tile of every group."""
    function = functools.partial(
        _choose, max_outputs=max_outputs[0], inclusive=inclusive
    )
    for _ in range(threshold.ndim):
        function = jax.vmap(function)
    return function(boxes, keys, classes, threshold)


def _choose(
    boxes: Array,
    keys: Array,
    classes: Array,
    threshold: Array,
    *,
    max_outputs: int,
    inclusive: bool,
) -> Array:
    """Of one group."""
    count = boxes.shape[0]
    known = isinstance(count, int)  # in an export it may be any
    if (known and count == 0) or max_outputs == 0:
        return jnp.full(max_outputs, -1, jnp.int32)
    # Stable, so by index among equals.
    order = jnp.argsort(keys, stable=True, descending=True).astype(jnp.int32)
    total = (keys != _NEVER).sum(dtype=jnp.int32)
    tile = min(_TILE, count) if known else _TILE
    tiles = -(-count // tile)
    order = jnp.pad(order, (0, tiles * tile - count))
    # Room for a whole tile behind the last one chosen, in whole tiles.
    room = (-(-max_outputs // tile) + 1) * tile
    zero = jnp.int32(0)
    state = [
        *(zero, zero, jnp.zeros(room, jnp.int32)),
        *(jnp.zeros((room, 4), boxes.dtype), jnp.zeros(room, classes.dtype)),
    ]
    place = jnp.arange(tile, dtype=jnp.int32)
    earlier = place[:, None] < place[None]

    def suppressed(by: Any, these: Any) -> Array:
        """[T, T]: whether box j of `these` overlaps box i of `by` too much."""
        overlap = pair_overlaps(
            by[0][:, None], these[0][None], inclusive=inclusive, xp=jnp
        )
        return (overlap > threshold) & (by[1][:, None] == these[1][None])

    def unfinished(state: Any) -> Any:
        t, chosen, *_ = state
        return (t * tile < total) & (chosen < max_outputs)

    def choose_from_tile(state: Any) -> Any:
        t, chosen, indices, *kept = state
        start = t * tile
        index = jax.lax.dynamic_slice_in_dim(order, start, tile)
        current = [boxes[index], classes[index]]
        alive = start + place < total

        def against(i: Any, alive: Array) -> Array:
            by = [jax.lax.dynamic_slice_in_dim(x, i * tile, tile) for x in kept]
            filled = i * tile + place < chosen
            return alive & ~(suppressed(by, current) & filled[:, None]).any(axis=0)

        chunks = (chosen + tile - 1) // tile
        alive = jax.lax.fori_loop(0, chunks, against, alive)

        # Within the tile: a box stays if no earlier one that stays suppresses it.
        # Each round settles at least one more box, so what does not change is
        # the greedy answer.
        conflict = suppressed(current, current) & earlier

        def settle(state: Any) -> Any:
            keep, _ = state
            new = alive & ~(conflict & keep[:, None]).any(axis=0)
            return new, (new != keep).any()

        keep, _ = jax.lax.while_loop(
            lambda state: state[1], settle, (alive, jnp.array(True))
        )
        # The kept go to the front of the tile; what stands behind is overwritten.
        front = jnp.argsort(~keep, stable=True)
        put = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=chosen, axis=0
        )
        indices = put(indices, index[front])
        kept = [put(x, y[front]) for x, y in zip(kept, current, strict=True)]
        return [t + 1, chosen + keep.sum(dtype=jnp.int32), indices, *kept]

    _, chosen, indices, *_ = jax.lax.while_loop(unfinished, choose_from_tile, state)
    some = jnp.arange(max_outputs, dtype=jnp.int32) < chosen
    return jnp.where(some, indices[:max_outputs], -1)


# --- The record --------------------------------------------------------------


def _example(dtype: str, layout: str) -> tuple[Any, dict[str, Any]]:
    """Crowded boxes of three classes in two groups; neither argument matters."""
    rng = np.random.default_rng(len(dtype + layout))
    corners = rng.integers(0, 60, (2, 300, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 30, (2, 300, 2))], -1)
    keys = rng.integers(-50, 50, (2, 300)).astype(np.int32)
    keys[:, ::9] = _NEVER
    classes = rng.integers(-1, 2, (2, 300)).astype(np.int32)
    threshold = np.array([0.25, 0.5], np.float32)
    operands = (boxes.astype(np.float32), keys, classes, threshold)
    return operands, {"max_outputs": (90,), "inclusive": True}


# The CUDA kernel works off so many boxes at once: 256 bytes for each box.
_ROWS = 2048


def _workspace(operands: Any, results: Any, params: Any) -> list[Any]:
    """The order of boxes; a bit for each, and for each with each of some rows."""
    _, keys, _, threshold = operands
    count = keys.shape[-1]
    words = -(-count // 32)
    rows = _ROWS
    if isinstance(count, int):
        rows = max(32, min(_ROWS, words * 32))
    shapes = ((count,), (words,), (words, rows), ())
    groups = threshold.shape
    return [jax.core.ShapedArray((*groups, *shape), np.int32) for shape in shapes]


NMS = lowering.register(
    Op(
        "nms",
        "G B 4, G B, G B, G -> G M",
        plain=_plain,
        sizes={"max_outputs": "M"},
        dtypes=(np.int32,),
        attributes=lambda *, inclusive, **_: {"inclusive": inclusive},
        called=("boxes", "the indices"),
        workspace=_workspace,
        example=_example,
    )
)
