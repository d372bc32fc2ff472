"""Where RoIAlign's samples lie, in plain JAX: the twin of csrc/core/align_samples.h.

Every operation rounds on its own: no product is fused with a sum, no division is a
product with a reciprocal. XLA does both where it may, so `_rounded` and `_divide` stand
between: samples cross the border of the map by less.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

# From so many cells on a box gives zeros: float32 counts cells no further.
_CELL_LIMIT = 2.0**24


def _rounded(x: Array) -> Array:
    """`x` itself, which compilers then do not fuse with what comes after."""
    most = jnp.finfo(x.dtype).max
    return jnp.clip(x, -most, most)


def _divide(x: Array, by: int | Array) -> Array:
    """`x / by`, correctly rounded.

    XLA multiplies with a reciprocal where it divides by a constant or by what many
    elements share; of this selection it knows neither.
    """
    return x / jnp.where(jnp.isnan(x), 1, by).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class SampleAxis:
    """One axis of RoIs: its samples, and the cells that they lie between.

    Attributes:
      start: [K], of the RoI on the map.
      bin_size: [K], cells of a bin.
      grid: [K], samples of a bin.
      first: [K, P], the first sample of each bin that may be inside of the map.
      most: How many samples from `first` on may be inside, of any bin.
      extent: Cells of the map, of all or [K].
      scale: Cells per pixel, of all or [K].
      one_cell: [K], whether the RoI is taken to be a cell long.
    """

    start: Array
    bin_size: Array
    grid: Array
    first: Array
    most: int | Array
    extent: Any
    scale: Array
    one_cell: Array

    @classmethod
    def of(
        cls,
        low: Array,
        high: Array,
        scale: Any,
        num_bins: int,
        extent: Any,
        sampling_ratio: int,
        aligned: bool,
    ) -> "SampleAxis":
        """The axis of finite corners [K], in pixels of the image.

        Args:
          low: Where RoIs start.
          high: Where they end.
          scale: Cells per pixel, of all or [K].
          num_bins: Bins along the axis.
          extent: Cells of the map, of all or [K].
          sampling_ratio: Samples of a bin, 0 for as many as it has cells.
          aligned: Whether RoIs are moved by half a cell.
        """
        dtype = low.dtype
        offset = jnp.asarray(0.5 if aligned else 0.0, dtype)
        factor = jnp.asarray(scale, jnp.float32).astype(dtype)
        ends = low * factor, high * factor
        start = _rounded(ends[0]) - offset
        length = _rounded(ends[1]) - offset - start
        one_cell = (length < 1) & (not aligned)
        length = jnp.where(one_cell, 1, length)
        sampled = jnp.abs(length) < _CELL_LIMIT
        for end in ends:  # of finite corners, infinite once they are scaled
            sampled &= jnp.isfinite(end)
        start = jnp.where(sampled, start, 0)
        length = jnp.where(sampled, length, 0)
        bin_size = _divide(length, num_bins)
        if sampling_ratio:
            grid = jnp.full_like(bin_size, sampling_ratio)
            most: int | Array = sampling_ratio
        else:
            grid = jnp.maximum(jnp.ceil(bin_size), 0)
            # Samples are more than half a cell apart, or alone in their bin.
            inside = jnp.max(2.0 * (jnp.asarray(extent, jnp.float32) + 1) + 4)
            most = jnp.minimum(grid.max(initial=0), inside).astype(jnp.int32)
        grid = jnp.where(sampled, grid, 0)
        first = jnp.zeros((*low.shape, num_bins), dtype)
        axis = cls(start, bin_size, grid, first, most, extent, factor, one_cell)
        if sampling_ratio:
            return axis
        # By the distance from -1, and two samples sooner.
        index = jnp.arange(num_bins, dtype=dtype)
        before = -1 - (start[:, None] + index * bin_size[:, None])
        step = jnp.where(grid > 0, bin_size / jnp.maximum(grid, 1), 1)
        step = jnp.where(step > 0, step, 1)[:, None]
        first = jnp.clip(jnp.floor(before / step) - 2, 0, grid[:, None])
        return dataclasses.replace(axis, first=first)

    @property
    def taps(self) -> int | Array:
        """Two for each sample: the cells that it lies between."""
        return 2 * self.most

    def _sample(self, number: int | Array) -> tuple[Array, Array, Array]:
        """[K, P]: numbers of samples within their bins, places, whether inside."""
        dtype = self.start.dtype
        index = jnp.arange(self.first.shape[-1], dtype=dtype)
        size, grid = self.bin_size[:, None], self.grid[:, None]
        sample = self.first + number
        begin = self.start[:, None] + _rounded(index * size)
        within = _rounded((sample + jnp.asarray(0.5, dtype)) * size)
        place = begin + _divide(within, jnp.where(grid > 0, grid, 1))
        extent = self._per_bin(self.extent)
        inside = (place >= -1) & (place <= extent) & (sample < grid) & (extent > 0)
        return sample, jnp.where(inside, place, 0), inside

    def _per_bin(self, x: Any) -> Any:
        return x[:, None] if jnp.ndim(x) else x

    def _share(self, inside: Array) -> Array:
        """[K, P]: what a sample counts in its bin."""
        grid = self.grid[:, None]
        return jnp.where(inside, 1 / jnp.where(grid > 0, grid, 1), 0)

    def tap(self, number: int | Array) -> tuple[Array, Array]:
        """Of every bin, one cell and its weight: two taps make a sample.

        Returns:
          int32 [K, P], a cell of the map; [K, P], its weight divided by the samples
          of a bin, 0 where there is no such sample or it lies outside.
        """
        _, place, inside = self._sample(number // 2)
        last = self._per_bin(self.extent) - 1
        place = jnp.clip(place, 0, last)
        cell = jnp.floor(place)
        upper = place - cell
        far = number % 2
        weight = jnp.where(far == 1, upper, 1 - upper)
        cell = jnp.minimum(cell.astype(jnp.int32) + far, last)
        return cell, weight * self._share(inside)

    def slopes(self, number: int | Array) -> tuple[Array, Array]:
        """The derivatives of that weight along where the RoI starts and ends.

        At a cell it is the one to the right; where a sample is moved into the map it
        is 0.
        """
        sample, place, inside = self._sample(number // 2)
        dtype = self.start.dtype
        num_bins = self.first.shape[-1]
        index = jnp.arange(num_bins, dtype=dtype)
        grid = jnp.maximum(self.grid, 1)[:, None]
        along = (index + (sample + jnp.asarray(0.5, dtype)) / grid) / num_bins
        between = (place >= 0) & (place < self._per_bin(self.extent) - 1)
        sign = jnp.where(number % 2 == 1, 1, -1).astype(dtype)
        scale = self._per_bin(self.scale)
        slope = jnp.where(between, sign * scale * self._share(inside), 0)
        one_cell = self.one_cell[:, None]
        return (
            slope * jnp.where(one_cell, 1, 1 - along),
            slope * jnp.where(one_cell, 0, along),
        )
