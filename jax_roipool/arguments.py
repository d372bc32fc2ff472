"""What a call may look like: every check of public arguments, and its words."""

import contextlib
import dataclasses
import math
import numbers
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Layout = Literal["NHWC", "NCHW"]
ArrayLike = jax.Array | np.ndarray[Any, Any]

_FEATURE_DTYPES = ("float16", "bfloat16", "float32", "float64")
_FORMS = """
  features {map4} and rois [K, 5] = (image index, x1, y1, x2, y2)
  features {map4} and rois [N, R, 4] = (x1, y1, x2, y2), R per image
  features {map3} and rois [R, 4] = (x1, y1, x2, y2), one image"""
# float32 counts bins exactly up to here.
_MAX_BINS = 2**24
_INT32_END = 2**31


@dataclasses.dataclass(frozen=True)
class Config:
    """The static side of a call, checked and in one form."""

    output_size: tuple[int, int]
    spatial_scale: tuple[float, float]
    layout: Layout


def check_config(output_size: Any, spatial_scale: Any, layout: Any) -> Config:
    """The static arguments in one form.

    Raises:
      TypeError, ValueError: An argument is not as documented, or is traced.
    """
    return Config(
        _check_output_size(output_size),
        _check_spatial_scale(spatial_scale),
        check_layout(layout),
    )


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


def check_arrays(
    features: Any, rois: Any, valid: Any, layout: Layout
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The array arguments as JAX arrays, of ranks and sizes that fit.

    Raises:
      TypeError, ValueError: An argument is not as documented.
    """
    features = _as_array("features", features)
    rois = _as_array("rois", _keep_index(rois))
    if features.dtype.name not in _FEATURE_DTYPES:
        raise TypeError(
            f"features must be one of {', '.join(_FEATURE_DTYPES)}, got "
            f"{features.dtype.name}"
        )
    if not is_real(rois.dtype):
        raise TypeError(f"rois must be of a real dtype, got {rois.dtype.name}")
    _check_shapes(features.shape, rois.shape, layout)
    if valid is not None:
        valid = _as_array("valid", valid)
        if valid.dtype != jnp.bool_:
            raise TypeError(f"valid must be bool, got {valid.dtype.name}")
        if valid.shape != rois.shape[:-1]:
            raise ValueError(
                f"valid must have one entry per RoI, shape {rois.shape[:-1]}, "
                f"got {valid.shape}"
            )
    return features, rois, valid


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
