"""RoIAlign (He et al. 2017)."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jax_roipool import arguments, lowering, plain
from jax_roipool.arguments import ArrayLike, Features, Layout, Scales
from jax_roipool.geometry.align_samples import SampleAxis
from jax_roipool.ops import bands


def roi_align(
    features: Features,
    rois: ArrayLike,
    output_size: int | tuple[int, int],
    spatial_scale: Scales = 1.0,
    *,
    sampling_ratio: int | tuple[int, int] = 0,
    aligned: bool = True,
    mode: Literal["avg"] = "avg",
    box_gradient: bool = False,
    levels: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    layout: Layout = "NHWC",
) -> Array:
    """Pools the mean of bilinear samples in each bin of each RoI.

    RoIAlign of Mask R-CNN (He et al. 2017, section 3): a RoI is mapped onto the feature
    map without rounding and divided into PH x PW bins, each with a grid of samples,
    interpolated between the four cells around them. Forms and shapes are those of
    `roi_pool`.

    The defaults are detectron2's. torchvision's `roi_align` and its pretrained
    detectors have `aligned=False`, and the detectors `sampling_ratio=2`.

    Args:
      features: As in `roi_pool`: [N, H, W, C] or [H, W, C]; float16, bfloat16, float32
        or float64. Or a sequence of them, the levels of a feature pyramid.
      rois: As in `roi_pool`: (x1, y1, x2, y2) in pixels of the image, as continuous
        coordinates; in the flat form with the image index before.
      output_size: Bins per RoI, `(PH, PW)` or one number for both. Static.
      spatial_scale: Cells of the feature map per pixel of the image, `(scale_h,
        scale_w)` or one number for both. Static, rounded to float32. With several
        levels a sequence of scales.
      sampling_ratio: Samples per bin along each axis, `(rows, columns)` or one number
        for both; 0 means as many as a bin has cells, rounded up. Static.
      aligned: Whether cell centers lie at half cells, so that a RoI moves by half a
        cell; else a RoI is at least one cell long. Static.
      mode: "avg", the mean over a bin's samples.
      box_gradient: Whether boxes get a gradient too. Static.
      levels: As in `roi_pool`: int, the level of each RoI; `None` means by size.
      valid: bool, one per RoI; `None` means all. Empty RoIs, as in `roi_pool`, give
        zeros, take no gradient and cost next to nothing.
      layout: "NHWC" or "NCHW".

    Returns:
      The pooled features, in the dtype of `features`: the mean over a bin's samples,
      summed in float32 or wider and rounded once, within 1e-5 of the sum of |weight *
      feature|; instruction sets may differ in last digits. A sample more than a cell
      outside the map counts as 0; a cell of weight 0 is not read. Geometry is float32,
      in float64 where features and rois are.

    Gradient:
      Features get the transpose, summed in float32 or wider. The op is linear: every
      mode and order of differentiation works, and what is kept is the boxes. RoIs
      get zero; with `box_gradient=True` that of their samples, which move with the
      corners: along an axis the difference of the two cells that a sample lies between,
      at a cell the one to its right, 0 where it was moved into the map. It is summed
      in float32 or wider and works in every mode and order too; it then keeps the
      features.

    Raises:
      TypeError, ValueError: An argument has a wrong type, rank, shape or size,
        or a static one is traced. Values inside arrays never raise.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax_roipool import roi_align
      >>> features = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> rois = jnp.array([[0, 1.0, 1.0, 3.0, 3.0]])   # image 0, its middle
      >>> roi_align(features, rois, output_size=2)[..., 0]
      Array([[[ 5.,  6.],
              [ 9., 10.]]], dtype=float32)
    """
    ratio = arguments.check_sampling_ratio(sampling_ratio)
    aligned = arguments.check_bool("aligned", aligned)
    box_gradient = arguments.check_bool("box_gradient", box_gradient)
    if mode != "avg":
        raise ValueError(f'mode must be "avg", got {mode!r}')
    call = arguments.check_call(
        features, rois, output_size, spatial_scale, levels, valid, layout
    )
    return _roi_align(*call, ratio, aligned, box_gradient)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _roi_align(
    arrays: arguments.Arrays,
    config: arguments.Config,
    sampling_ratio: tuple[int, int],
    aligned: bool,
    box_gradient: bool,
) -> Array:
    double = arrays.maps[0].dtype == arrays.rois.dtype == jnp.float64
    return bands.call(
        FAMILY,
        arrays,
        config,
        box_dtype=jnp.float64 if double else jnp.float32,
        box_gradient=box_gradient,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


def _bands(
    boxes: Array,
    rois: plain.FlatRois,
    pyramid: plain.Pyramid,
    bins: tuple[int, int],
    *,
    spatial_scale: tuple[tuple[float, float], ...],
    sampling_ratio: tuple[int, int],
    aligned: bool,
) -> tuple[SampleAxis, SampleAxis]:
    def along(axis: int) -> SampleAxis:
        return SampleAxis.of(
            boxes[:, 1 - axis],
            boxes[:, 3 - axis],
            rois.choose([scale[axis] for scale in spatial_scale]),
            bins[axis],
            rois.choose([size[axis] for size in pyramid.sizes]),
            sampling_ratio[axis],
            aligned,
        )

    return along(0), along(1)


def _attributes(
    spatial_scale: Any, sampling_ratio: tuple[int, int], aligned: bool
) -> dict[str, Any]:
    rows, columns = sampling_ratio
    samples = {"sampling_rows": rows, "sampling_columns": columns, "aligned": aligned}
    return {**lowering.scale_attributes(spatial_scale), **samples}


FAMILY = bands.Family(
    "roi_align",
    _bands,
    _attributes,
    {"spatial_scale": ((0.25, 0.25),), "sampling_ratio": (2, 2), "aligned": False},
    box_gradient=True,
)
