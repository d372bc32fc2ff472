"""RoI average pooling with the bins of RoI max pooling."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import arguments, lowering
from jax_roipool.arguments import ArrayLike, Features, Layout, Scales
from jax_roipool.geometry.caffe_bins import Bins, bins_of
from jax_roipool.ops import bands


def roi_average_pool(
    features: Features,
    rois: ArrayLike,
    output_size: int | tuple[int, int],
    spatial_scale: Scales = 1.0,
    *,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
) -> Array:
    """Pools the mean of each bin of each region of interest (RoI).

    The bins of `roi_pool`, Caffe's rule, bit for bit; each gives the mean of its cells,
    channel by channel. Forms and shapes are those of `roi_pool` too.

    Args:
      features: As in `roi_pool`: [N, H, W, C] or [H, W, C]; float16, bfloat16, float32
        or float64. Or a sequence of them, the levels of a feature pyramid.
      rois: As in `roi_pool`: (x1, y1, x2, y2) in pixels, corners inclusive; in the
        flat form with the image index before.
      output_size: Bins per RoI, `(PH, PW)` or one number for both. Static.
      spatial_scale: Cells of the feature map per pixel of the image, `(scale_h,
        scale_w)` or one number for both. Static, rounded to float32. With several
        levels a sequence of scales.
      levels: As in `roi_pool`: int, the level of each RoI; `None` means by size.
      valid: bool, one per RoI; `None` means all. Empty RoIs, as in `roi_pool`, give
        zeros, take no gradient and cost next to nothing.
      layout: "NHWC" or "NCHW".

    Returns:
      The pooled features, in the dtype of `features`, summed in float32 or wider and
      rounded once: within 1e-5 of the sum of |feature| / cells. A bin outside the map
      gives 0, a NaN among its cells NaN.

    Gradient:
      Features get the cotangent divided by the number of cells, summed in float32 or
      wider. The op is linear: every mode and order of differentiation works, and what
      is kept is the boxes. RoIs get zero.

    Raises:
      TypeError, ValueError: An argument has a wrong type, rank, shape or size,
        or a static one is traced. Values inside arrays never raise.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import roi_average_pool
      >>> features = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> rois = jnp.array([[0, 0.0, 0.0, 3.0, 3.0]])   # image 0, all of it
      >>> roi_average_pool(features, rois, output_size=2)[..., 0]
      Array([[[ 2.5,  4.5],
              [10.5, 12.5]]], dtype=float32)
    """
    call = arguments.check_call(
        features, rois, output_size, spatial_scale, levels, valid, layout
    )
    return _roi_average_pool(*call)


@partial(jax.jit, static_argnums=1)
def _roi_average_pool(arrays: arguments.Arrays, config: arguments.Config) -> Array:
    return bands.call(FAMILY, arrays, config)


@dataclasses.dataclass(frozen=True)
class _Mean:
    """The cells of bins, with equal weights."""

    bins: Bins

    @property
    def taps(self) -> Array:
        return (self.bins.end - self.bins.begin).max(initial=0)

    def tap(self, number: int | Array) -> tuple[Array, Array]:
        cell = self.bins.begin + number
        cells = jnp.maximum(self.bins.end - self.bins.begin, 1).astype(jnp.float32)
        return cell, jnp.where(cell < self.bins.end, 1 / cells, 0)

    def slopes(self, number: int | Array) -> tuple[Array, Array]:
        raise NotImplementedError("bins of whole cells have no gradient of boxes")


def _bands(*args: Any, **params: Any) -> tuple[_Mean, _Mean]:
    rows, columns = bins_of(*args, **params)
    return _Mean(rows), _Mean(columns)


FAMILY = bands.Family(
    "roi_average_pool",
    _bands,
    lowering.scale_attributes,
    {"spatial_scale": ((0.25, 0.25),)},
    inclusive=True,
)
