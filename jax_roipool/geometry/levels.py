"""Which level of a feature pyramid a box belongs to (Lin et al. 2017, equation 1)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

# Areas from which a box belongs to the levels 3, 4, ... where one of 224 pixels
# belongs to level 4: those at which torchvision's float32 logarithm turns.
_USUAL = {3: 12543.98046875, 4: 50175.9296875, 5: 200703.671875, 6: 802814.6875}


def least_areas(
    num_levels: int, min_level: int, canonical_size: float, canonical_level: int
) -> list[np.float32]:
    """The least area of a box on each level but the lowest.

    By comparing with these, and without a logarithm, which platforms round unlike.
    """
    areas = []
    for level in range(min_level + 1, min_level + num_levels):
        usual = canonical_size == 224 and canonical_level == 4 and level in _USUAL
        with np.errstate(over="ignore", under="ignore"):
            side = np.float64(canonical_size) * 2.0 ** (level - canonical_level)
            area = _USUAL[level] if usual else side**2 * 2.0**-2e-6
            areas.append(np.float32(area))
    return areas


def level_of(boxes: Array, areas: list[np.float32]) -> Array:
    """int32, from 0: how many of the areas a float32 box [..., 4] reaches."""
    sides = boxes[..., 2:] - boxes[..., :2]
    area = sides[..., 0] * sides[..., 1]
    level = jnp.zeros_like(area, dtype=jnp.int32)
    for least in areas:
        level += (area >= least).astype(jnp.int32)
    return level
