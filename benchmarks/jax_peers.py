"""RoIAlign as one would write it in JAX, in one function; NHWC, without gradients.

A sum of gathers, which XLA fuses so that none is stored, is the fastest forward pass
that we know of. Its own gradient takes three times as long as that of the package in
plain JAX, and one made of products with dense bands ten times as long: the package
itself is the peer there.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from workloads import AlignWorkload

from jax_roipool import fpn_levels


def taps(load: AlignWorkload, features: Any, rois: Array, **_: Any) -> Array:
    """One gather for each of four cells of each sample, on every level."""
    maps = features if load.levels > 1 else [features]
    image = rois[:, 0].astype(jnp.int32)[:, None, None]
    level = fpn_levels(rois[:, 1:], len(maps))
    bins = jnp.arange(load.size)
    total: Any = 0
    for number, (x, scale) in enumerate(zip(maps, load.scales, strict=True)):
        here = (level == number)[:, None]

        def axis(
            low: Array, high: Array, extent: int, scale: float = scale, here: Any = here
        ) -> list[tuple[Array, Array]]:
            start = low * scale
            size = jnp.maximum(high * scale - start, 1) / load.size
            found = []
            for i in range(load.ratio):
                within = bins + (i + 0.5) / load.ratio
                place = start[:, None] + within * size[:, None]
                inside = here & (place >= -1) & (place <= extent)
                share = jnp.where(inside, 1 / load.ratio, 0)
                place = jnp.where(here, jnp.clip(place, 0, extent - 1), 0)
                cell = place.astype(jnp.int32)
                upper = place - cell
                found.append((cell, share * (1 - upper)))
                found.append((jnp.minimum(cell + 1, extent - 1), share * upper))
            return found

        _, height, width, _ = x.shape
        columns = axis(rois[:, 1], rois[:, 3], width)
        for row, a in axis(rois[:, 2], rois[:, 4], height):
            for column, b in columns:
                weight = a[:, :, None, None] * b[:, None, :, None]
                total += x[image, row[:, :, None], column[:, None, :]] * weight
    return total
