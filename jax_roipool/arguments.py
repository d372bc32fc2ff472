"""What a call may look like: every check of public arguments, and its words."""

import contextlib
import dataclasses
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Layout = Literal["NHWC", "NCHW"]
ArrayLike = jax.Array | np.ndarray[Any, Any]
# One map, or the levels of a feature pyramid; and the scale of each.
Features = ArrayLike | Sequence[ArrayLike]
Scale = float | tuple[float, float]
Scales = Scale | Sequence[Scale]

_FEATURE_DTYPES = ("float16", "bfloat16", "float32", "float64")
_FORMS = """
  features {map4} and rois [K, 5] = (image index, x1, y1, x2, y2)
  features {map4} and rois [N, R, 4] = (x1, y1, x2, y2), R per image
  features {map3} and rois [R, 4] = (x1, y1, x2, y2), one image"""
# float32 counts bins exactly up to here.
_MAX_BINS = 2**24
_INT32_END = 2**31
MAX_LEVELS = 16  # as kMaxLevels in csrc/core/sizes.h


@dataclasses.dataclass(frozen=True)
class Config:
    """The static side of a call, checked and in one form."""

    output_size: tuple[int, int]
    spatial_scale: tuple[tuple[float, float], ...]  # of each level
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The array side of a call, checked: a pytree.

    Attributes:
      maps: Features, of every level.
      rois: As they came.
      levels: int, one per RoI; `None` for one map, or where areas tell.
      valid: bool, one per RoI, or `None` for all.
    """

    maps: tuple[jax.Array, ...]
    rois: jax.Array
    levels: jax.Array | None
    valid: jax.Array | None


jax.tree_util.register_dataclass(
    Arrays, data_fields=["maps", "rois", "levels", "valid"], meta_fields=[]
)


def _check_config(
    features: Any, output_size: Any, spatial_scale: Any, layout: Any
) -> Config:
    """The static arguments in one form: as many scales as features has levels."""
    size = _check_output_size(output_size)
    if not isinstance(features, list | tuple):
        return Config(
            size, (_check_spatial_scale(spatial_scale),), check_layout(layout)
        )
    _refuse_arrays("spatial_scale", spatial_scale)
    levels = len(features)
    if not isinstance(spatial_scale, list | tuple) or len(spatial_scale) != levels:
        raise ValueError(
            "spatial_scale must be a sequence of scales, one for each of the "
            f"{levels} levels of features, got {spatial_scale!r}"
        )
    scales = tuple(map(_check_spatial_scale, spatial_scale))
    return Config(size, scales, check_layout(layout))


def check_int(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int, if it is one, at least `least` and at most `most`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least and most is None:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if most is not None and not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    return int(value)


def refuse_mask(name: str, value: Any) -> None:
    """Raises TypeError for a masked array: nothing here would look at its mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got a masked array of dtype "
            f"{value.dtype}; fill it, with numpy.ma.MaskedArray.filled, or drop what "
            "is masked"
        )


def check_bool(name: str, value: Any) -> bool:
    """The value, if it is static and a bool."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be a static bool, got {value!r}")


def is_real(dtype: Any) -> bool:
    """Whether it is of integers or floats, JAX's own (bfloat16) among them."""
    return bool(
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )


def check_sampling_ratio(sampling_ratio: Any) -> tuple[int, int]:
    """Samples per bin along (rows, columns), 0 for as many as it has cells."""
    rows, columns = _pair("sampling_ratio", sampling_ratio)
    if rows == -1 or columns == -1:
        raise ValueError(
            "sampling_ratio must be 0 where torchvision's is -1, got "
            f"{sampling_ratio!r}"
        )
    return (
        check_int("sampling_ratio", rows, 0, _MAX_BINS),
        check_int("sampling_ratio", columns, 0, _MAX_BINS),
    )


def check_layout(layout: Any) -> Layout:
    """`layout`, if it is one."""
    if isinstance(layout, str) and layout in ("NHWC", "NCHW"):
        return layout  # type: ignore[return-value]
    raise ValueError(f'layout must be "NHWC" or "NCHW", got {layout!r}')


def _refuse_arrays(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be static Python numbers, got a traced value; under "
            "jit name it in static_argnames or close over it"
        )
    if isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} must be static Python numbers, got an array of shape {value.shape}"
        )


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    _refuse_arrays(name, value)
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(
                f"{name} must be one number or a pair (height, width), got {value!r}"
            )
        for number in value:
            _refuse_arrays(name, number)
        return value[0], value[1]
    return value, value


def _check_output_size(output_size: Any) -> tuple[int, int]:
    def check(size: Any) -> int:
        try:
            if isinstance(size, bool | np.bool_):
                raise TypeError
            number = operator.index(size)
        except TypeError:
            raise TypeError(
                "output_size must be an int or a pair of ints (PH, PW), got "
                f"{output_size!r}"
            ) from None
        if not 1 <= number <= _MAX_BINS:
            raise ValueError(
                "output_size must be at least 1 and at most 2**24 along each "
                f"axis, got {output_size!r}"
            )
        return number

    height, width = _pair("output_size", output_size)
    return check(height), check(width)


def _check_spatial_scale(spatial_scale: Any) -> tuple[float, float]:
    def check(scale: Any) -> float:
        if isinstance(scale, bool | np.bool_) or not isinstance(scale, numbers.Real):
            raise TypeError(
                "spatial_scale must be a number or a pair of numbers "
                f"(scale_h, scale_w), got {spatial_scale!r}"
            )
        try:
            with np.errstate(over="ignore"):
                rounded = float(np.float32(float(scale)))
        except OverflowError:  # an int beyond every float
            rounded = math.inf
        if not (math.isfinite(rounded) and rounded > 0):
            raise ValueError(
                "spatial_scale must be finite and above 0 as a float32, got "
                f"{spatial_scale!r}"
            )
        return rounded

    height, width = _pair("spatial_scale", spatial_scale)
    return check(height), check(width)


def _as_array(name: str, value: Any) -> jax.Array:
    if isinstance(value, list | tuple):
        if name == "rois":
            raise TypeError(
                "rois must be one array, got a list of boxes. Give each box the "
                "index of its image and concatenate them:\n"
                "  rois = jnp.concatenate([jnp.insert(boxes, 0, i, axis=1)\n"
                "                          for i, boxes in enumerate(rois)])\n"
                "or pad the boxes of every image to one number R, stack them to "
                "[N, R, 4] and tell the padding by `valid`"
            )
        raise TypeError(f"{name} must be an array, got a {type(value).__name__}")
    refuse_mask(name, value)
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"{name} must be an array, got {value!r}")
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        # Without 64-bit types JAX wraps integers around; 2**32 must not become
        # the index of image 0.
        limits = np.iinfo(jax.dtypes.canonicalize_dtype(value.dtype))
        value = np.clip(value, limits.min, limits.max)
    try:
        # JAX makes float64 of NumPy float32. In boxes any number may stand.
        any_number = np.errstate(over="ignore", invalid="ignore")
        with any_number if name == "rois" else contextlib.nullcontext():
            return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array that JAX can hold, got a "
            f"{type(value).__name__} of dtype {value.dtype}: {error}"
        ) from error


def _keep_index(rois: Any) -> Any:
    """NumPy RoIs whose image index survives that JAX makes float64 float32.

    0.9999999999 must not become the index of image 1, nor -1e-60 that of image 0.
    """
    if (
        isinstance(rois, np.ndarray)
        and rois.dtype == np.float64
        and rois.ndim == 2
        and rois.shape[1] == 5
        and jax.dtypes.canonicalize_dtype(rois.dtype) != rois.dtype
    ):
        index = rois[:, :1]
        with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN too
            index = np.where(index < 0, -1, np.trunc(index))
            return np.concatenate([index, rois[:, 1:]], axis=1).astype(np.float32)
    return rois


def check_call(
    features: Any,
    rois: Any,
    output_size: Any,
    spatial_scale: Any,
    levels: Any,
    valid: Any,
    layout: Any,
) -> tuple[Arrays, Config]:
    """The arguments that all ops share, checked.

    Raises:
      TypeError, ValueError: An argument is not as documented.
    """
    config = _check_config(features, output_size, spatial_scale, layout)
    return check_arrays(features, rois, levels, valid, config.layout), config


def check_arrays(
    features: Any, rois: Any, levels: Any, valid: Any, layout: Layout
) -> Arrays:
    """The array arguments as JAX arrays, of ranks and sizes that fit.

    Raises:
      TypeError, ValueError: An argument is not as documented.
    """
    maps = _check_maps(features, layout)
    rois = check_rois(rois)
    for each in maps:
        _check_shapes(each.shape, rois.shape, layout)
    if levels is not None:
        if not isinstance(features, list | tuple):
            raise ValueError(
                "levels goes with features of several levels, a sequence of arrays; "
                "got levels and one array"
            )
        levels = _check_per_roi("levels", levels, rois.shape[:-1])
        if not jnp.issubdtype(levels.dtype, jnp.integer):
            raise TypeError(f"levels must be ints, got {levels.dtype.name}")
    if valid is not None:
        valid = _check_per_roi("valid", valid, rois.shape[:-1])
        if valid.dtype != jnp.bool_:
            raise TypeError(f"valid must be bool, got {valid.dtype.name}")
    return Arrays(maps, rois, levels, valid)


def check_rois(rois: Any) -> jax.Array:
    """RoIs of any shape as a JAX array of real numbers."""
    array = _as_array("rois", _keep_index(rois))
    if not is_real(array.dtype):
        raise TypeError(f"rois must be of a real dtype, got {array.dtype.name}")
    return array


def _check_per_roi(name: str, value: Any, shape: tuple[Any, ...]) -> jax.Array:
    array = _as_array(name, value)
    if array.shape != shape:
        raise ValueError(
            f"{name} must have one entry per RoI, shape {shape}, got {array.shape}"
        )
    return array


def _check_maps(features: Any, layout: Layout) -> tuple[jax.Array, ...]:
    """The levels of features; a single array is one."""
    if isinstance(features, list | tuple):
        names = [f"features[{i}]" for i in range(len(features))]
        if not 1 <= len(features) <= MAX_LEVELS:
            raise ValueError(
                f"features must have 1 to {MAX_LEVELS} levels, got {len(features)}"
            )
        maps = tuple(map(_as_array, names, features))
    else:
        names, maps = ["features"], (_as_array("features", features),)
    for name, each in zip(names, maps, strict=True):
        if each.dtype.name not in _FEATURE_DTYPES:
            raise TypeError(
                f"{name} must be one of {', '.join(_FEATURE_DTYPES)}, got "
                f"{each.dtype.name}"
            )
        if each.dtype != maps[0].dtype:
            raise TypeError(
                f"features must have one dtype on all levels, got "
                f"{maps[0].dtype.name} and {each.dtype.name}"
            )
        rows = -3 if layout == "NHWC" else -2
        if _but_cells(each.shape, rows) != _but_cells(maps[0].shape, rows):
            raise ValueError(
                "features must have as many images and channels on every level, got "
                f"shapes {[list(x.shape) for x in maps]} with layout {layout}"
            )
    return maps


def _but_cells(shape: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    """A map's shape without rows and columns; all of one that has too few axes."""
    if len(shape) < 3:
        return shape
    rows += len(shape)
    return (*shape[:rows], *shape[rows + 2 :])


def _check_shapes(
    features: tuple[Any, ...], rois: tuple[Any, ...], layout: Layout
) -> None:
    axes = "H, W, C" if layout == "NHWC" else "C, H, W"
    forms = _FORMS.format(map4=f"[N, {axes}]", map3=f"[{axes}]")
    got = f"got features {list(features)} and rois {list(rois)}"
    if (len(features), len(rois)) not in ((4, 2), (4, 3), (3, 2)):
        raise ValueError(
            f"features and rois must have one of these shapes:{forms}\n{got}"
        )
    numbers_per_roi = 5 if (len(features), len(rois)) == (4, 2) else 4
    if rois[-1] != numbers_per_roi:
        hint = ""
        if numbers_per_roi == 5 and rois[-1] == 4:
            hint = (
                "; boxes without an image index go with one image "
                f"[{axes}], or with [N, {axes}] as [N, R, 4]"
            )
        raise ValueError(
            f"rois must have {numbers_per_roi} numbers each here, {got}{hint}. "
            f"The forms are:{forms}"
        )
    if len(rois) == 3 and rois[0] != features[0]:
        raise ValueError(
            f"rois [N, R, 4] must have as many images as features [N, {axes}], {got}"
        )
    height, width = features[-3:-1] if layout == "NHWC" else features[-2:]
    images = features[0] if len(features) == 4 else 1
    # Symbolic sizes are checked when the exported program runs.
    if isinstance(height, int) and isinstance(width, int):
        if height * width >= _INT32_END:
            raise ValueError(
                "features must have fewer than 2**31 cells per map (H * W), "
                f"because argmax is int32, got {height} * {width}"
            )
        # Only beside an axis of size 0 can one alone be that large.
        if max(height, width) >= _INT32_END:
            raise ValueError(
                "features must have fewer than 2**31 rows and columns, got "
                f"{height} and {width}"
            )
    if isinstance(images, int) and images >= _INT32_END:
        raise ValueError(f"features must have fewer than 2**31 images, got {images}")
