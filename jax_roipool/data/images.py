"""Images: from a file to what the network takes.

`decode` a file, `flip` it or not, find its scale with `scale_for`, and `prepare`
it: the mean subtracted, resized as py-faster-rcnn does it, and padded to one of a
few fixed sizes, so that a jitted step compiles once for each of them. Inside the
step `to_features` makes the float32 features of either transport.
"""

import contextlib
import dataclasses
import functools
import math
import numbers
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jax_roipool.arguments import check_int
from jax_roipool.data.checks import instance, number, ordered

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "jax_roipool.data needs OpenCV: pip install 'jax_roipool[data]'"
    ) from error

Channels = Literal["RGB", "BGR"]
Transport = Literal["float32", "uint8"]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview

# 200 MB once decoded: more than the sensors of nearly all cameras have.
MAX_PIXELS = 2**26

# The mean of ImageNet's training images per channel, from py-faster-rcnn's
# configuration (PIXEL_MEANS), there in the order B, G, R.
_MEANS_RGB = (122.7717, 115.9465, 102.9801)
# The stride of the coarsest map of the usual backbones (C5).
_STRIDE = 32


class ImageError(ValueError):
    """An image that cannot be read; the message begins with its name."""


class _Problem(Exception):
    """What is wrong with an image whose name is known further up."""


# --- Configuration ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """How images become blobs; the original's numbers by default.

    Lists become tuples, so that a configuration can be hashed and be a static
    argument of `jax.jit`.

    Attributes:
      scales: Lengths in pixels, of which the short side of an image gets one;
        `TRAIN.SCALES` of the original.
      max_size: The most pixels the long side may get; `TRAIN.MAX_SIZE`.
      means: Mean per channel, in the order of `channels`. `None`: those of the
        original, (122.7717, 115.9465, 102.9801) in RGB.
      channels: Order of the channels in the blob, "RGB" or "BGR". Weights
        trained in Caffe want "BGR".
      buckets: Sizes (height, width) in pixels to which blobs are padded.
        `None`: `default_buckets(scales, max_size)`.
      transport: "float32": blobs are finished on the host. "uint8": a quarter of
        the bytes goes to the device, and `to_features` subtracts the mean there;
        every value is at most 0.502 of a level off.

    Raises:
      TypeError, ValueError: A field is not as documented.

    Example:
      >>> from jax_roipool.data.images import ImageConfig
      >>> config = ImageConfig(channels="BGR")          # for Caffe's weights
      >>> config.pixel_means
      (102.9801, 115.9465, 122.7717)
      >>> config.bucket_sizes
      ((608, 800), (800, 608), (608, 1024), (1024, 608))
    """

    scales: tuple[int, ...] = (600,)
    max_size: int = 1000
    means: tuple[float, float, float] | None = None
    channels: Channels = "RGB"
    buckets: tuple[tuple[int, int], ...] | None = None
    transport: Transport = "float32"

    def __post_init__(self) -> None:
        fix = functools.partial(object.__setattr__, self)
        fix("scales", _check_sizes("scales", self.scales))
        fix("max_size", check_int("max_size", self.max_size, 1))
        if self.means is not None:
            fix("means", _check_means(self.means))
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f'channels must be "RGB" or "BGR", got {self.channels!r}')
        if self.buckets is not None:
            fix("buckets", _check_buckets(self.buckets))
        if self.transport not in ("float32", "uint8"):
            raise ValueError(
                f'transport must be "float32" or "uint8", got {self.transport!r}'
            )

    @property
    def pixel_means(self) -> tuple[float, float, float]:
        """The means in force, in the order of `channels`."""
        if self.means is not None:
            return self.means
        red, green, blue = _MEANS_RGB
        return _MEANS_RGB if self.channels == "RGB" else (blue, green, red)

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...]:
        """The buckets in force."""
        if self.buckets is not None:
            return self.buckets
        return default_buckets(self.scales, self.max_size)


def _check_sizes(name: str, value: Any) -> tuple[int, ...]:
    sizes = ordered(name, value, "a tuple of ints")
    if not sizes:
        raise ValueError(f"{name} must not be empty")
    return tuple(check_int(name, size, 1) for size in sizes)


def _check_means(value: Any) -> tuple[float, ...]:
    means = ordered("means", value, "three numbers, one a channel")
    if len(means) != 3:
        raise ValueError(f"means must be three numbers, one a channel, got {value!r}")
    if any(isinstance(m, bool) or not isinstance(m, numbers.Real) for m in means):
        raise TypeError(f"means must be numbers, got {value!r}")
    return tuple(number("means", mean) for mean in means)


def _check_pair(name: str, value: Any, what: str) -> tuple[int, int]:
    pair = ordered(name, value, what)
    if len(pair) != 2:
        raise ValueError(f"{name} must be {what}, got {value!r}")
    height, width = _check_sizes(name, pair)
    return height, width


def _check_buckets(value: Any) -> tuple[tuple[int, int], ...]:
    what = "pairs (height, width)"
    values = ordered("buckets", value, what)
    buckets = [_check_pair("buckets", bucket, what) for bucket in values]
    if not buckets:
        raise ValueError("buckets must not be empty")
    return tuple(buckets)


# --- Sizes ------------------------------------------------------------------


def scale_for(height: int, width: int, target: int, max_size: int) -> float:
    """The factor by which an image is resized; py-faster-rcnn's rule.

    The short side becomes `target` pixels long, unless the long side would come
    to more than `max_size`; then that becomes `max_size` long.

    Args:
      height: Of the image, in pixels.
      width: Of the image, in pixels.
      target: Wanted length of the short side, in pixels.
      max_size: Greatest length of the long side, in pixels.

    Returns:
      `target / short side`, or where `round(scale * long side) > max_size`
      (halves to even) `max_size / long side`; a Python float.

    Raises:
      TypeError, ValueError: An argument is not an int or is below 1.

    Example:
      >>> from jax_roipool.data.images import scale_for
      >>> scale_for(375, 500, 600, 1000)
      1.6
      >>> scale_for(200, 500, 600, 1000)      # 3 would make 1500 of 500
      2.0
    """
    sides = check_int("height", height, 1), check_int("width", width, 1)
    target = check_int("target", target, 1)
    max_size = check_int("max_size", max_size, 1)
    scale = target / min(sides)
    if round(scale * max(sides)) > max_size:
        scale = max_size / max(sides)
    return scale


def resized_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size of an image resized by `scale`.

    Args:
      height: Of the image, in pixels.
      width: Of the image, in pixels.
      scale: The factor; finite and above 0.

    Returns:
      `(height, width)` in pixels: `round(side * scale)` in double precision,
      halves to even, as `cv2.resize` has it for factors; at least 1, where
      `cv2.resize` fails.

    Raises:
      TypeError, ValueError: An argument is not as documented.

    Example:
      >>> from jax_roipool.data.images import resized_size
      >>> resized_size(333, 500, 600 / 333)
      (600, 901)
    """
    scale = _check_scale(scale)
    height, width = check_int("height", height, 1), check_int("width", width, 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _check_scale(scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
        raise TypeError(f"scale must be a number, got {scale!r}")
    factor = float(scale)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"scale must be finite and above 0, got {scale!r}")
    return factor


def default_buckets(
    scales: Sequence[int], max_size: int
) -> tuple[tuple[int, int], ...]:
    """Buckets that every image fits, whatever its aspect ratio.

    After resizing no short side is longer than the greatest scale and no long
    side longer than `max_size`, so one bucket of that size lying and one
    standing hold everything. Two more of aspect ratio 4:3, the commonest of
    photographs, spare those a fifth of the pixels. Sides are rounded up to
    multiples of 32, so that feature maps down to 1/32 have whole cells.

    Args:
      scales: As in `ImageConfig`. The greatest alone counts: few buckets mean
        few compilations.
      max_size: As in `ImageConfig`.

    Returns:
      Pairs (height, width), the lying one first where two have the same area.

    Raises:
      TypeError, ValueError: An argument is not as documented.

    Example:
      >>> from jax_roipool.data.images import default_buckets
      >>> default_buckets((600,), 1000)
      ((608, 800), (800, 608), (608, 1024), (1024, 608))
    """
    max_size = check_int("max_size", max_size, 1)
    greatest = max(_check_sizes("scales", scales))

    def up(size: int) -> int:
        return -(-size // _STRIDE) * _STRIDE

    short, long = up(min(greatest, max_size)), up(max_size)
    photo = min(up(-(-4 * greatest // 3)), long)
    lying = [(short, photo), (short, long)]
    both = [size for h, w in lying for size in ((h, w), (w, h))]
    return tuple(dict.fromkeys(both))


def bucket_for(
    height: int, width: int, buckets: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The smallest bucket that holds an image.

    For a batch, pass the greatest height and the greatest width of its images.

    Args:
      height: Of the resized image, in pixels.
      width: Of the resized image, in pixels.
      buckets: Pairs (height, width) in pixels.

    Returns:
      Of the buckets at least as high and as wide, the one of the smallest area;
      of equal areas the first.

    Raises:
      TypeError, ValueError: An argument is not as documented, or no bucket is
        large enough; the message gives the size and the buckets.

    Example:
      >>> from jax_roipool.data.images import bucket_for
      >>> bucket_for(600, 901, [(608, 800), (608, 1024), (1024, 608)])
      (608, 1024)
    """
    height, width = check_int("height", height, 1), check_int("width", width, 1)
    buckets = _check_buckets(buckets)
    fitting = [
        bucket for bucket in buckets if height <= bucket[0] and width <= bucket[1]
    ]
    if not fitting:
        raise ValueError(
            f"an image of {height} x {width} (height x width) fits none of the "
            f"buckets {', '.join(f'{h} x {w}' for h, w in buckets)}"
        )
    return min(fitting, key=lambda bucket: bucket[0] * bucket[1])


# --- From an image to a blob ------------------------------------------------


def flip(image: NDArray[Any]) -> NDArray[Any]:
    """The image mirrored left to right.

    A box follows with `x1, x2 = width - 1 - x2, width - 1 - x1`. As in the
    original, flip before resizing.

    Args:
      image: [H, W, C] or [H, W], any dtype.

    Returns:
      A contiguous copy of the same shape and dtype.

    Raises:
      TypeError, ValueError: `image` is no array of rank 2 or 3.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data.images import flip
      >>> flip(np.array([[1, 2, 3]]))
      array([[3, 2, 1]])
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a NumPy array, got {type(image).__name__}")
    if image.ndim not in (2, 3):
        raise ValueError(
            f"image must be [H, W, C] or [H, W], got shape {list(image.shape)}"
        )
    return np.ascontiguousarray(image[:, ::-1])


@functools.cache
def _mean_table(means: tuple[float, ...]) -> NDArray[np.float32]:
    """Every level less the mean of its channel, [256, 1, 3].

    Rounded once, from double precision: what the original's float32 image less
    its float64 means comes to.
    """
    return (np.arange(256.0)[:, None] - means).astype(np.float32)[:, None]


def _subtract_means(
    image: NDArray[np.uint8], means: tuple[float, ...]
) -> NDArray[np.float32]:
    # Looking up is twice as fast as subtracting.
    return cv2.LUT(image, _mean_table(means))  # type: ignore[return-value]


def _resize(image: NDArray[Any], scale: float, into: NDArray[Any]) -> None:
    """Resizes `image` as the original does it: cv2's `INTER_LINEAR`, by factors."""
    height, width = image.shape[:2]
    if min(round(height * scale), round(width * scale)) >= 1:
        # The factors, not the rounded size, say where pixels are read.
        size, factor = None, scale
    else:
        size, factor = (into.shape[1], into.shape[0]), 0.0
    _keep(cv2.resize(image, size, into, factor, factor, cv2.INTER_LINEAR), into)


def _keep(result: NDArray[Any], into: NDArray[Any]) -> None:
    """Copies what OpenCV did not write where it was told to; it promises little."""
    if not np.may_share_memory(result, into):
        into[...] = result


def prepare(
    image: NDArray[np.uint8],
    scale: float,
    config: ImageConfig,
    *,
    bucket: tuple[int, int] | None = None,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """One image as the network takes it: `prep_im_for_blob` of the original.

    The mean is subtracted first, then the image is resized bilinearly as
    `cv2.resize` does with `INTER_LINEAR` and factors: pixel x of the result
    stands at `(x + 0.5) / scale - 0.5` of the image, clamped to its edges, with
    no antialiasing when it shrinks. Then rows and columns of zeros are added
    below and to the right.

    Args:
      image: uint8 [H, W, 3], RGB, as from `decode`.
      scale: The factor, as from `scale_for`; finite and above 0.
      config: Means, order of channels, buckets and transport.
      bucket: The size (height, width) to pad to, as one batch has it; `None`:
        `bucket_for` the resized image, of `config.bucket_sizes`.
      out: Where to write the blob, of its shape and dtype: a place in a batch. Its
        size is then the bucket.

    Returns:
      `(blob, im_info)`. `blob` is [bucket height, bucket width, 3] in the order
      of `config.channels`; float32, or for uint8 transport the resized image
      without the mean subtracted, rounded: at most 0.502 of a level off.
      `im_info` is float32 (height, width, scale), the size being that before
      padding, in pixels (`resized_size`).

    Raises:
      TypeError, ValueError: An argument is not as documented, or the resized
        image does not fit.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data.images import ImageConfig, prepare, scale_for
      >>> image = np.zeros((375, 500, 3), np.uint8)
      >>> config = ImageConfig()
      >>> scale = scale_for(375, 500, config.scales[0], config.max_size)
      >>> blob, im_info = prepare(image, scale, config)
      >>> blob.shape, blob[0, 0], blob[-1, -1]           # the last is padding
      ((608, 800, 3), array([-122.7717, -115.9465, -102.9801], dtype=float32),
       array([0., 0., 0.], dtype=float32))
      >>> im_info
      array([600. , 800. ,   1.6], dtype=float32)
    """
    _check_image(image)
    instance("config", config, ImageConfig)
    height, width = resized_size(image.shape[0], image.shape[1], scale)
    if bucket is not None:
        bucket = _check_pair("bucket", bucket, "(height, width)")
    if out is not None:
        _check_out(out, bucket, config)
        bucket = out.shape[:2]
    buckets = config.bucket_sizes if bucket is None else [bucket]
    rows, columns = bucket_for(height, width, buckets)
    if config.channels == "BGR":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
    # OpenCV writes into the blob: another 6 MB per image, touched once, would
    # cost ten times as much as the resize.
    blob = np.empty((rows, columns, 3), config.transport) if out is None else out
    blob[height:] = 0
    blob[:height, width:] = 0
    inside = blob[:height, :width]
    if config.transport == "float32":
        _resize(_subtract_means(image, config.pixel_means), scale, inside)
    else:
        # cv2's own resize of uint8 is up to 0.83 of a level off. With 8 bits below
        # the point it is 1/512; float32 would be exact and take twice the memory,
        # and so twice the time.
        pixels = _scratch("pixels", image.shape)
        pixels[...] = image
        pixels <<= 8
        resized = _scratch("resized", (height, width, 3))
        _resize(pixels, scale, resized)
        _keep(cv2.convertScaleAbs(resized, inside, 1 / 256), inside)
    return blob, np.array([height, width, scale], np.float32)


_scratches = threading.local()


def _scratch(name: str, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Memory of this thread, contents undefined, to be used at once.

    Megabytes that are allocated anew come page by page from the kernel, zeroed, which
    takes longer than the resize.
    """
    size = math.prod(shape)
    memory: NDArray[np.uint16] | None = getattr(_scratches, name, None)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.uint16)
        setattr(_scratches, name, memory)
    return memory[:size].reshape(shape)


def _check_out(out: Any, bucket: tuple[int, int] | None, config: ImageConfig) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != config.transport:
        raise TypeError(f"out must be a {config.transport} array, got {out!r:.80}")
    size = "H, W" if bucket is None else ", ".join(map(str, bucket))
    if out.ndim != 3 or out.shape[2] != 3 or bucket not in (None, out.shape[:2]):
        raise ValueError(f"out must be [{size}, 3], got shape {list(out.shape)}")
    row, *pixels = out.strides
    if row < 0 or pixels != [3 * out.itemsize, out.itemsize]:
        raise ValueError(
            "out must have the pixels of a row one after another, got strides "
            f"{out.strides}"
        )


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype.name}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"image must be [H, W, 3] and not empty, got {list(image.shape)}"
        )


def to_features(data: Any, im_info: Any, config: ImageConfig) -> jax.Array:
    """Blobs as float32 features, the mean subtracted and padding zero.

    The first thing in a jitted step; float32 blobs pass through.

    Args:
      data: [N, H, W, 3] or [H, W, 3], uint8 or float32, as from `prepare`.
      im_info: [N, 3] or [3], (height, width, scale); tells image from padding.
      config: The configuration of `prepare`. Static.

    Returns:
      float32 of the shape of `data`. For uint8 `data - mean` in float32, and 0
      in the padding: the float32 blob to within 0.502 of a level.

    Raises:
      TypeError, ValueError: `data` or `im_info` has another dtype or shape.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jax_roipool.data.images import ImageConfig, to_features
      >>> config = ImageConfig(means=(10.0, 20.0, 30.0), transport="uint8")
      >>> data = jnp.full((1, 2, 2, 3), 40, jnp.uint8)
      >>> im_info = jnp.array([[2.0, 1.0, 1.0]])         # the right half is padding
      >>> jax.jit(functools.partial(to_features, config=config))(data, im_info)
      Array([[[[30., 20., 10.],
               [ 0.,  0.,  0.]],
      <BLANKLINE>
              [[30., 20., 10.],
               [ 0.,  0.,  0.]]]], dtype=float32)
    """
    data, im_info = jnp.asarray(data), jnp.asarray(im_info)
    if data.dtype not in (jnp.uint8, jnp.float32):
        raise TypeError(f"data must be uint8 or float32, got {data.dtype.name}")
    if data.ndim not in (3, 4) or data.shape[-1] != 3:
        raise ValueError(
            f"data must be [N, H, W, 3] or [H, W, 3], got {list(data.shape)}"
        )
    if im_info.shape != (*data.shape[:-3], 3):
        raise ValueError(
            f"im_info must be {[*data.shape[:-3], 3]} for data {list(data.shape)}, "
            f"got {list(im_info.shape)}"
        )
    if data.dtype == jnp.float32:
        return data

    # Ranks and dtypes are made alike: users may have JAX refuse to.
    def along(axis: int, values: Any) -> jax.Array:
        shape = [1] * data.ndim
        shape[axis] = -1
        return jnp.array(values, jnp.float32).reshape(shape)

    sizes = im_info.astype(jnp.float32)[..., None, None, None, :]
    inside = along(-3, np.arange(data.shape[-3])) < sizes[..., 0]
    inside &= along(-2, np.arange(data.shape[-2])) < sizes[..., 1]
    means = along(-1, config.pixel_means)
    return jnp.where(inside, data.astype(jnp.float32) - means, jnp.float32(0))


# --- Decoding ---------------------------------------------------------------


def image_size(source: Source, *, name: str | None = None) -> tuple[int, int]:
    """The size of an image, from its header alone.

    That of the pixels as they are stored: an EXIF orientation is not applied.

    Args:
      source: As in `decode`. Of a file the first 256 KB are read, and the rest
        only where the header does not end there.
      name: As in `decode`.

    Returns:
      `(height, width)` in pixels.

    Raises:
      ImageError: The source cannot be read, or its format is none that `decode`
        knows. The rest of the file may still be damaged.
      TypeError: `source` is of another type.

    Example:
      >>> import cv2, numpy as np
      >>> from jax_roipool.data.images import image_size
      >>> _, data = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))
      >>> image_size(data.tobytes())
      (30, 40)
    """
    with _named(source, name):
        for head in (_HEAD_BYTES, None):
            data = _read(source, head, MAX_PIXELS)
            try:
                return _format(data).size(data)
            except _Problem:
                if head is None or len(data) < head:
                    raise
    raise AssertionError  # the last turn returns or raises


def decode(
    source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """The image of a file as RGB.

    JPEG, PNG, BMP, GIF, WebP and TIFF. The result is that of cv2 except where
    said otherwise:

    - Grey is replicated to three channels; palettes are looked up.
    - CMYK JPEGs are read in Adobe's inverted convention, without colour profile:
      `R = (255 - C) * (255 - K) / 255`, C and K being ink.
    - 16 bits become 8 by `round(v / 257)`, so 65535 gives 255 (cv2 alone drops
      the low byte). Floating point and 32-bit integers are refused.
    - Alpha is dropped: the colours stored below it stay. A GIF's transparent
      pixels show its background colour; a TIFF with alpha is refused, because
      cv2 multiplies it in.
    - EXIF orientation is not applied: pixels are those stored, to which the
      boxes of Pascal VOC and COCO refer. A TIFF that is to be turned (tag
      Orientation) is refused.
    - Of an animation or of several pages the first is taken.

    Nothing partial is returned. Before decoding, the file is walked from header
    to end: a JPEG must reach its EOI marker, a PNG its IEND chunk with every
    checksum right, a GIF its trailer; the blocks of BMP, WebP and TIFF must lie
    inside the file. Damage within compressed data is found where a checksum
    (PNG) or the decoder finds it; JPEG has no checksums.

    Args:
      source: A path, or the bytes of a file.
      name: What errors call the image; by default the path, or for bytes their
        number.
      max_pixels: The most pixels (height * width) that are decoded. The header
        is checked against it first, so that a decompression bomb costs nothing.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      ImageError: The file is missing, no regular file, empty, of an unknown
        format, truncated, damaged or too large. The message begins with the
        name.
      TypeError, ValueError: An argument is of another type or below 1.

    Example:
      >>> import cv2, numpy as np
      >>> from jax_roipool.data.images import decode
      >>> _, data = cv2.imencode(".png", np.full((2, 3), 7, np.uint8))
      >>> decode(data.tobytes()).shape
      (2, 3, 3)
      >>> decode(data.tobytes()[:-9], name="cut.png")
      Traceback (most recent call last):
      jax_roipool.data.images.ImageError: cut.png: truncated: PNG without its last
      chunk
    """
    max_pixels = check_int("max_pixels", max_pixels, 1)
    with _named(source, name):
        data = _read(source, None, max_pixels)
        kind = _format(data)
        height, width = kind.size(data)
        if height * width > max_pixels:
            raise _Problem(
                f"{height} x {width} pixels (height x width), which is more than "
                f"max_pixels={max_pixels}"
            )
        kind.check(data)
        image = _decode(data, kind.name)
        if image.shape[:2] != (height, width):
            raise _Problem(
                f"its header says {height} x {width} pixels (height x width), its "
                f"data {image.shape[0]} x {image.shape[1]}"
            )
        return image


def _decode(data: bytes, kind: str) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _Problem(f"OpenCV cannot decode this {kind}: {error}") from error
    if image is None:
        raise _Problem(f"OpenCV cannot decode this {kind}: damaged or not supported")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise _Problem(f"pixels must be of 8 or 16 bits, got {image.dtype.name}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def _named(source: Any, name: str | None) -> Iterator[None]:
    """Puts the image's name before what is wrong with it."""
    is_path = isinstance(source, str | os.PathLike)
    if not is_path and not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(
            f"source must be a path or the bytes of a file, got {type(source).__name__}"
        )
    if name is None:
        name = os.fspath(source) if is_path else f"<{len(source)} bytes>"
    try:
        yield
    except _Problem as problem:
        raise ImageError(f"{name}: {problem}") from problem.__cause__
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or error}") from error


def _read(source: Source, head: int | None, max_pixels: int) -> bytes:
    """The bytes of the source; of a file only the first `head`, or `None`: all."""
    if isinstance(source, str | os.PathLike):
        try:
            status = os.stat(source)
        except ValueError as error:  # a path with a zero byte
            raise _Problem(str(error)) from error
        # Reading a pipe or a terminal could wait for ever.
        if not stat.S_ISREG(status.st_mode):
            is_directory = stat.S_ISDIR(status.st_mode)
            raise _Problem("a directory" if is_directory else "no regular file")
        # Four channels of 16 bits, uncompressed, and room for metadata.
        if head is None and status.st_size > 8 * max_pixels + _METADATA_BYTES:
            raise _Problem(
                f"a file of {status.st_size} bytes, more than an image of "
                f"{max_pixels} pixels takes"
            )
        with open(source, "rb") as file:
            data = file.read(-1 if head is None else head)
    else:
        data = bytes(source)
    if not data:
        raise _Problem("empty")
    return data


# --- Formats ----------------------------------------------------------------
#
# For each: the size by its header, and a check that the file is whole. The size
# must be that which the decoder takes, or a bomb could pass; so what decoders
# might read differently (a second frame header, a tag given twice) is refused.

_HEAD_BYTES = 2**18
_METADATA_BYTES = 2**24
# No writer comes near; a file of nothing but small parts would take minutes.
_MAX_PARTS = 2**16
# Every scan of a progressive JPEG goes over all pixels, however short it is.
# libjpeg's own scripts have 10.
_MAX_SCANS = 100


class _Format(NamedTuple):
    name: str
    signature: re.Pattern[bytes]
    size: Callable[[bytes], tuple[int, int]]
    check: Callable[[bytes], None]


def _format(data: bytes) -> _Format:
    for kind in _FORMATS:
        if kind.signature.match(data):
            return kind
    names = ", ".join(kind.name for kind in _FORMATS)
    raise _Problem(f"none of the formats {names}; it begins with {data[:8]!r}")


def _unpack(kind: str, layout: str, data: bytes, start: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, start)
    except struct.error:
        raise _Problem(f"truncated: {kind} ends within its header") from None


def _nonempty(height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1:
        raise _Problem(f"its header says {height} x {width} pixels (height x width)")
    return height, width


# A marker that begins a segment or ends the image. Fill bytes, stuffed zeros,
# TEM and the restart markers stand alone and are passed over, as libjpeg does.
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and what is in their segments, up to and with EOI."""
    position = 2
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if not found:
            raise _Problem("truncated: JPEG without its end-of-image marker")
        code, position = found[1][0], found.end()
        if code == _SOI:
            raise _Problem("a JPEG within a JPEG")
        if code == _EOI:
            yield code, b""
            return
        length = int.from_bytes(data[position : position + 2], "big")
        if position + max(length, 2) > len(data):
            raise _Problem("truncated: JPEG ends within a segment")
        if length < 2:
            raise _Problem(f"a JPEG segment of length {length}")
        yield code, data[position + 2 : position + length]
        position += length
    raise _Problem(f"a JPEG of more than {_MAX_PARTS} segments")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for code, segment in _jpeg_segments(data):
        if code in _SOF:
            if len(segment) < 6:
                raise _Problem("a JPEG frame header that is too short")
            bits, height, width = struct.unpack_from(">BHH", segment)
            if bits != 8:
                raise _Problem(f"a JPEG of {bits} bits per sample; only 8 are read")
            return _nonempty(height, width)
        if code == _SOS:
            break
    raise _Problem("a JPEG without a frame header")


def _check_jpeg(data: bytes) -> None:
    codes = [code for code, _ in _jpeg_segments(data)]
    if sum(code in _SOF for code in codes) != 1:
        raise _Problem("a JPEG with more than one frame header")
    scans = codes.count(_SOS)
    if scans == 0:
        raise _Problem("a JPEG without image data")
    if scans > _MAX_SCANS:
        raise _Problem(f"a JPEG of {scans} scans; more than {_MAX_SCANS} are refused")


def _png_size(data: bytes) -> tuple[int, int]:
    length, _, width, height = _unpack("PNG", ">IIII", data, 8)
    if length != 13 or data[12:16] != b"IHDR":
        raise _Problem("a PNG that does not begin with its header chunk")
    return _nonempty(height, width)


def _check_png(data: bytes) -> None:
    view, position = memoryview(data), 8
    kinds: list[bytes] = []
    while not kinds or kinds[-1] != b"IEND":
        if len(kinds) == _MAX_PARTS:
            raise _Problem(f"a PNG of more than {_MAX_PARTS} chunks")
        if position + 12 > len(data):
            raise _Problem("truncated: PNG without its last chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise _Problem("truncated: PNG ends within a chunk")
        checksum = int.from_bytes(data[end : end + 4], "big")
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise _Problem(f"damaged: PNG chunk {kind!r} has a wrong checksum")
        kinds.append(kind)
        position = end + 4
    if kinds.count(b"IHDR") != 1 or b"IDAT" not in kinds:
        raise _Problem("a PNG without image data or with two headers")


class _Bmp(NamedTuple):
    height: int
    width: int
    start: int
    bits: int
    compression: int


def _bmp_header(data: bytes) -> _Bmp:
    start, header = _unpack("BMP", "<II", data, 10)
    if header == 12:
        width, height, _, bits = _unpack("BMP", "<HHHH", data, 18)
        compression = 0
    elif header >= 40:
        width, height, _, bits, compression = _unpack("BMP", "<iiHHI", data, 18)
    else:
        raise _Problem(f"a BMP with a header of {header} bytes")
    # Below 0: rows from the top.
    return _Bmp(abs(height), width, start, bits, compression)


def _bmp_size(data: bytes) -> tuple[int, int]:
    header = _bmp_header(data)
    return _nonempty(header.height, header.width)


def _check_bmp(data: bytes) -> None:
    header = _bmp_header(data)
    # 3: masks that say where the colours are. The others are run lengths, or
    # JPEG and PNG for printers.
    if header.compression not in (0, 3):
        raise _Problem("a compressed BMP, which is not read")
    row = -(-header.width * header.bits // 32) * 4
    if header.start + row * header.height > len(data):
        raise _Problem("truncated: BMP ends within its pixels")


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = _unpack("GIF", "<HH", data, 6)
    return _nonempty(height, width)


def _check_gif(data: bytes) -> None:
    truncated = _Problem("truncated: GIF without its trailer")
    height, width = _gif_size(data)

    def table(flags: int) -> int:
        """Bytes of the colour table that the flags announce."""
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    def after_blocks(position: int) -> int:
        while position < len(data) and data[position]:
            position += 1 + data[position]
        return position + 1

    (flags,) = _unpack("GIF", "<B", data, 10)
    position, frames = 13 + table(flags), 0
    while position < len(data):
        kind = data[position]
        if kind == 0x3B:
            if not frames:
                raise _Problem("a GIF without an image")
            return
        if kind == 0x21:
            position = after_blocks(position + 2)
        elif kind == 0x2C:
            if position + 10 > len(data):
                raise truncated
            x, y, columns, rows, flags = struct.unpack_from(
                "<HHHHB", data, position + 1
            )
            if x + columns > width or y + rows > height:
                raise _Problem("a GIF with a frame larger than the image")
            frames += 1
            position = after_blocks(position + 11 + table(flags))
        else:
            raise _Problem(f"damaged: GIF block of unknown kind {kind}")
    raise truncated


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        _unpack("WebP", "<10B", data, 20)
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        signature, bits = _unpack("WebP", "<BI", data, 20)
        if signature != 0x2F:
            raise _Problem("damaged: WebP without the signature of its data")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        _unpack("WebP", "<10B", data, 20)
        if data[23:26] != b"\x9d\x01\x2a":
            raise _Problem("damaged: WebP without the signature of its data")
        width, height = _unpack("WebP", "<HH", data, 26)
        width, height = width & 0x3FFF, height & 0x3FFF
    else:
        raise _Problem(f"a WebP that begins with a chunk {kind!r}")
    return _nonempty(height, width)


def _check_webp(data: bytes) -> None:
    (size,) = _unpack("WebP", "<I", data, 4)
    if 8 + size > len(data):
        raise _Problem("truncated: WebP shorter than its header says")
    position = 12
    while position < 8 + size:
        (length,) = _unpack("WebP", "<I", data, position + 4)
        position += 8 + length + length % 2
    if position != 8 + size:
        raise _Problem("damaged: WebP chunks do not end with the file")


# Tags of TIFF that are read, by their names in the specification.
_TIFF_TAGS = {
    256: "ImageWidth",
    257: "ImageLength",
    258: "BitsPerSample",
    259: "Compression",
    262: "PhotometricInterpretation",
    273: "StripOffsets",
    274: "Orientation",
    277: "SamplesPerPixel",
    278: "RowsPerStrip",
    279: "StripByteCounts",
    284: "PlanarConfiguration",
    322: "TileWidth",
    323: "TileLength",
    324: "TileOffsets",
    325: "TileByteCounts",
    338: "ExtraSamples",
}
# How many samples a pixel has that is grey (0: white is zero), RGB, of a palette,
# CMYK; by PhotometricInterpretation.
_TIFF_SAMPLES = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I"}


def _tiff_tags(data: bytes, wanted: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """The tags of the first page."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = _unpack("TIFF", order + "I", data, 4)
    (count,) = _unpack("TIFF", order + "H", data, start)
    tags: dict[str, tuple[int, ...]] = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = _unpack("TIFF", order + "HHI", data, entry)
        name = _TIFF_TAGS.get(tag)
        if name is None or (wanted and name not in wanted):
            continue
        if name in tags or number == 0 or kind not in _TIFF_INTEGERS:
            raise _Problem(f"damaged: TIFF with a bad or second tag {name}")
        layout = f"{order}{number}{_TIFF_INTEGERS[kind]}"
        # struct would build a format of any length: the file bounds it first.
        if number > len(data):
            raise _Problem("truncated: TIFF ends within its header")
        where = entry + 8
        if struct.calcsize(layout) > 4:
            (where,) = _unpack("TIFF", order + "I", data, where)
        tags[name] = _unpack("TIFF", layout, data, where)
    return tags


def _tiff_size(data: bytes) -> tuple[int, int]:
    tags = _tiff_tags(data, ("ImageLength", "ImageWidth"))
    if len(tags) != 2:
        raise _Problem("a TIFF without its size")
    return _nonempty(tags["ImageLength"][0], tags["ImageWidth"][0])


def _check_tiff(data: bytes) -> None:
    tags = _tiff_tags(data)

    def one(name: str, default: int) -> int:
        return tags.get(name, (default,))[0]

    def up(size: int, part: int) -> int:
        return -(-size // max(part, 1))

    if one("Orientation", 1) != 1:
        raise _Problem("a TIFF that is to be turned (tag Orientation)")
    photometric = one("PhotometricInterpretation", -1)
    samples, bits = one("SamplesPerPixel", 1), one("BitsPerSample", 1)
    if photometric not in _TIFF_SAMPLES:
        raise _Problem(f"a TIFF of photometric {photometric}, which is not read")
    if "ExtraSamples" in tags or samples != _TIFF_SAMPLES[photometric]:
        raise _Problem("a TIFF with alpha or other extra samples")
    compression = one("Compression", 1)
    # None, LZW, deflate (two numbers), PackBits: no format within the format.
    if compression not in (1, 5, 8, 32773, 32946):
        raise _Problem(f"a TIFF of compression {compression}, which is not read")
    height, width = _tiff_size(data)
    planes = samples if one("PlanarConfiguration", 1) == 2 else 1
    if "TileOffsets" in tags:
        blocks = up(height, one("TileLength", 0)) * up(width, one("TileWidth", 0))
        kind = "Tile"
    else:
        blocks = up(height, min(one("RowsPerStrip", height), height))
        kind = "Strip"
    offsets = tags.get(f"{kind}Offsets", ())
    counts = tags.get(f"{kind}ByteCounts", ())
    if not len(offsets) == len(counts) == blocks * planes:
        raise _Problem("damaged: TIFF without all of its pixels")
    if any(o + c > len(data) for o, c in zip(offsets, counts, strict=True)):
        raise _Problem("truncated: TIFF ends within its pixels")
    bytes_needed = planes * height * up(width * bits * (samples // planes), 8)
    if compression == 1 and sum(counts) < bytes_needed:
        raise _Problem("damaged: TIFF without all of its pixels")


_FORMATS = (
    _Format("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg_size, _check_jpeg),
    _Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _png_size, _check_png),
    _Format("BMP", re.compile(rb"BM"), _bmp_size, _check_bmp),
    _Format("GIF", re.compile(rb"GIF8[79]a"), _gif_size, _check_gif),
    _Format("WebP", re.compile(rb"RIFF.{4}WEBP", re.S), _webp_size, _check_webp),
    _Format("TIFF", re.compile(rb"II\*\0|MM\0\*"), _tiff_size, _check_tiff),
)
