"""Images become blobs: values by definition, and no broken file gets through."""

import contextlib
import dataclasses
import doctest
import io
import itertools
import os
import pathlib
import pickle
import re
import struct
import time
import tracemalloc
import zlib
from functools import partial

import jax
import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

from jax_roipool.data import images  # noqa: E402
from jax_roipool.data.images import ImageConfig, ImageError  # noqa: E402

# GIF came to OpenCV with 4.11.
READS_GIF = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 11)
CAFFE_MEANS = (102.9801, 115.9465, 122.7717)


def noise(*shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height, width):
    """What JPEG and WebP keep to within a few levels."""
    y, x = np.mgrid[:height, :width]
    planes = (y * 200 / height, x * 200 / width, (x + y) * 200 / (height + width))
    return np.stack(planes, 2).round().astype(np.uint8)


def encoded(array, kind, mode=None, **options):
    file = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array, mode)
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data=b""):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(width, height, *chunks, bits=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- Resizing ---------------------------------------------------------------


def bilinear(image, scale):
    """By definition: pixel x of the result stands at (x + .5) / scale - .5."""

    def weights(size):
        matrix = np.zeros((max(round(size * scale), 1), size))
        for row in range(len(matrix)):
            place = min(max((row + 0.5) / scale - 0.5, 0), size - 1)
            low = int(place)
            matrix[row, low] += 1 - (place - low)
            matrix[row, min(low + 1, size - 1)] += place - low
        return matrix

    rows, columns = weights(image.shape[0]), weights(image.shape[1])
    return np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(float))


SIZES_AND_SCALES = [
    ((40, 60), 1.5),
    ((60, 40), 1.0),
    ((37, 53), 600 / 333),
    ((53, 37), 0.61),
    ((64, 48), 0.5),
    ((33, 20), 0.123),
    ((5, 7), 9.87),
    ((1, 30), 2.5),
    ((1, 1), 3.0),
]


@pytest.mark.parametrize(("size", "scale"), SIZES_AND_SCALES)
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_resize_is_bilinear_with_half_pixel_centres(size, scale, channels):
    image = noise(*size, 3)
    means = ImageConfig(channels=channels).pixel_means
    ordered = image if channels == "RGB" else image[..., ::-1]
    expected = bilinear(ordered - np.array(means), scale)
    height, width = expected.shape[:2]
    buckets = [(height + 3, width + 2)]

    config = ImageConfig(channels=channels, buckets=buckets)
    blob, im_info = images.prepare(image, scale, config)
    assert blob.dtype == im_info.dtype == np.float32
    assert blob.shape == (height + 3, width + 2, 3)
    # cv2 holds places and weights in float32: 255 levels times 2^-24 times the
    # size of a place, some tens here.
    np.testing.assert_allclose(blob[:height, :width], expected, atol=2e-3, rtol=0)
    assert (blob[height:] == 0).all()
    assert (blob[:, width:] == 0).all()
    assert (im_info == np.array([height, width, scale], np.float32)).all()

    config = dataclasses.replace(config, transport="uint8")
    short, same_info = images.prepare(image, scale, config)
    assert short.dtype == np.uint8
    assert (same_info == im_info).all()
    assert (short[height:] == 0).all()
    assert (short[:, width:] == 0).all()
    features = jax.jit(partial(images.to_features, config=config))(short, im_info)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, blob, atol=0.502, rtol=0)
    assert (features[height:] == 0).all()
    assert (features[:, width:] == 0).all()


def test_resize_is_that_of_the_original():
    """float32 image less float64 means, then cv2.resize by factors; bit for bit."""
    image = noise(333, 500, 3)
    scale = images.scale_for(333, 500, 600, 1000)
    bgr = image[..., ::-1].astype(np.float32)
    bgr -= CAFFE_MEANS
    expected = cv2.resize(bgr, None, None, fx=scale, fy=scale)
    blob, im_info = images.prepare(image, scale, ImageConfig(channels="BGR"))
    assert blob.shape == (608, 1024, 3)
    assert (blob[:600, :901] == expected).all()
    assert im_info.tolist() == [600, 901, np.float32(600 / 333)]


def test_resize_by_factors_and_not_to_a_size():
    """901 / 500 is not 600 / 333: places drift apart to the right."""
    ramp = np.repeat(np.arange(250, dtype=np.uint8)[None, :, None], 100, 0)
    ramp = np.repeat(ramp, 3, 2)
    config = ImageConfig(means=(0, 0, 0), buckets=((1000, 1000),))
    blob, im_info = images.prepare(ramp, 1.5049, config)
    width = int(im_info[1])
    assert width == round(250 * 1.5049) == 376
    places = (np.arange(width) + 0.5) / 1.5049 - 0.5
    np.testing.assert_allclose(
        blob[50, :width, 0], np.clip(places, 0, 249), atol=1e-3, rtol=0
    )


def test_a_side_never_vanishes():
    scale = images.scale_for(1, 5000, 600, 1000)
    assert scale == 0.2
    assert images.resized_size(1, 5000, scale) == (1, 1000)
    config = ImageConfig()
    for transport in ("float32", "uint8"):
        config = dataclasses.replace(config, transport=transport)
        blob, im_info = images.prepare(noise(1, 5000, 3), scale, config)
        assert blob.shape == (608, 1024, 3)
        assert im_info.tolist() == [1, 1000, np.float32(0.2)]


def test_prepare_takes_views_and_read_only_arrays():
    image = noise(30, 40, 3)
    config = ImageConfig(buckets=((60, 80),))
    expected = images.prepare(images.flip(image), 2.0, config)[0]
    view = image[:, ::-1]
    assert (images.prepare(view, 2.0, config)[0] == expected).all()
    fixed = images.flip(image)
    fixed.setflags(write=False)
    for transport in ("float32", "uint8"):
        wanted = dataclasses.replace(config, transport=transport)
        images.prepare(fixed, 2.0, wanted)
        images.prepare(fixed, 1.0, wanted)


def test_identity():
    image = noise(32, 64, 3)
    config = ImageConfig(transport="uint8", buckets=((32, 64),))
    blob, im_info = images.prepare(image, 1.0, config)
    assert (blob == image).all()
    assert im_info.tolist() == [32, 64, 1]


@pytest.mark.parametrize(
    ("size", "scale", "resized"),
    [
        ((375, 500), 1.6, (600, 800)),
        ((500, 375), 1.6, (800, 600)),
        ((333, 500), 600 / 333, (600, 901)),
        ((600, 1000), 1.0, (600, 1000)),
        ((600, 1001), 1000 / 1001, (599, 1000)),
        ((200, 500), 2.0, (400, 1000)),
        # 1000.5 is rounded to even, 1000, and allowed; 1001.5 becomes 1002.
        ((400, 667), 1.5, (600, 1000)),
        ((1200, 2001), 0.5, (600, 1000)),
        ((1200, 2003), 1000 / 2003, (599, 1000)),
        ((1, 1), 600.0, (600, 600)),
    ],
)
def test_scale_and_size(size, scale, resized):
    assert images.scale_for(*size, 600, 1000) == scale
    assert images.resized_size(*size, scale) == resized
    assert isinstance(scale, float)


def test_resized_size_is_that_of_cv2():
    rng = np.random.default_rng(1)
    for _ in range(300):
        height, width = rng.integers(1, 300, 2).tolist()
        scale = float(rng.choice([0.25, 0.5, 1.5, 2.5, rng.uniform(0.1, 4)]))
        if min(round(height * scale), round(width * scale)) < 1:
            continue
        image = np.zeros((height, width), np.float32)
        expected = cv2.resize(image, None, fx=scale, fy=scale).shape
        assert images.resized_size(height, width, scale) == expected


@pytest.mark.parametrize(
    ("scales", "max_size"), [((600,), 1000), ((480, 800), 1333), ((600,), 400)]
)
def test_default_buckets_hold_every_image(scales, max_size):
    buckets = images.default_buckets(scales, max_size)
    assert all(side % 32 == 0 for bucket in buckets for side in bucket)
    sides = [*range(1, 60), *range(60, 1200, 47), 5000, 100_000]
    for height, width, scale in itertools.product(sides, sides, scales):
        factor = images.scale_for(height, width, scale, max_size)
        size = images.resized_size(height, width, factor)
        assert max(size) <= max_size
        assert images.bucket_for(*size, buckets) in buckets


def test_default_buckets():
    assert ImageConfig().bucket_sizes == (
        (608, 800),
        (800, 608),
        (608, 1024),
        (1024, 608),
    )
    assert images.default_buckets((600,), 400) == ((416, 416),)


def test_bucket_is_the_smallest_then_the_first():
    buckets = [(100, 100), (50, 200), (200, 50), (40, 240)]
    assert images.bucket_for(40, 50, buckets) == (40, 240)
    assert images.bucket_for(50, 50, buckets) == (100, 100)
    assert images.bucket_for(50, 101, buckets) == (50, 200)
    assert images.bucket_for(50, 50, buckets[1:]) == (50, 200)
    assert images.bucket_for(150, 50, buckets) == (200, 50)
    message = r"101 x 51 .*fits none of the buckets 100 x 100, 50 x 200"
    with pytest.raises(ValueError, match=message):
        images.bucket_for(101, 51, buckets[:2])


def test_prepare_pads_to_the_batch():
    image = noise(30, 40, 3)
    config = ImageConfig(buckets=((30, 40), (60, 60)))
    assert images.prepare(image, 1.0, config)[0].shape == (30, 40, 3)
    blob, im_info = images.prepare(image, 1.0, config, bucket=(60, 60))
    assert blob.shape == (60, 60, 3)
    assert im_info.tolist() == [30, 40, 1]
    with pytest.raises(ValueError, match=r"30 x 40 .*none of the buckets 30 x 30"):
        images.prepare(image, 1.0, config, bucket=(30, 30))


def test_flip():
    image = noise(5, 7, 3)
    mirrored = images.flip(image)
    for x in range(7):
        assert (mirrored[:, x] == image[:, 6 - x]).all()
    assert mirrored.flags.c_contiguous
    assert not np.shares_memory(mirrored, image)
    assert (images.flip(image[..., 0]) == mirrored[..., 0]).all()


def test_to_features_in_a_batch_under_jit():
    config = ImageConfig(transport="uint8", buckets=((64, 96),))
    pairs = [
        images.prepare(noise(*size, 3), 1.0, config) for size in ((64, 80), (9, 96))
    ]
    data, im_info = map(np.stack, zip(*pairs, strict=True))
    step = jax.jit(partial(images.to_features, config=config))
    features = np.asarray(step(data, im_info))
    plain = dataclasses.replace(config, transport="float32")
    for blob, size, feature in zip(data, [(64, 80), (9, 96)], features, strict=True):
        wanted, _ = images.prepare(blob[: size[0], : size[1]], 1.0, plain)
        np.testing.assert_allclose(feature, wanted, atol=2e-5, rtol=0)
    assert (np.asarray(step(features, im_info)) == features).all()


# --- Formats ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_lossless_formats(kind, mode):
    if kind == "GIF" and not READS_GIF:
        pytest.skip("this OpenCV has no GIF")
    picture = Image.fromarray(noise(13, 9, 3))
    picture = picture.quantize(17) if mode == "P" else picture.convert(mode)
    if kind == "GIF" and mode == "RGB":
        picture = picture.quantize(256)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture, kind, **options)
    image = images.decode(data)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert (image == np.asarray(picture.convert("RGB"))).all()
    assert images.image_size(data) == (13, 9)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_spread_over_all_levels(bits):
    row = bytes([0, 0b11100100])
    data = png(8 // bits, 1, chunk(b"IDAT", zlib.compress(row)), bits=bits, colour=0)
    digits = [0b11100100 >> s & 2**bits - 1 for s in range(8 - bits, -1, -bits)]
    expected = np.array(digits) * 255 // (2**bits - 1)
    assert (images.decode(data) == expected[None, :, None]).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff(compression):
    expected = noise(40, 30, 3)
    data = encoded(expected, "TIFF", compression=compression)
    assert (images.decode(data) == expected).all()
    big_endian = struct.pack(">2sHIH", b"MM", 42, 8, 8)
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 200), (278, 3, 1), (279, 4, 2)]
    for tag, kind, value in tags:
        pad = value << 16 if kind == 3 else value
        big_endian += struct.pack(">HHII", tag, kind, 1, pad)
    big_endian = big_endian.ljust(200, b"\0") + bytes([5, 250])
    assert (images.decode(big_endian)[0] == [[5] * 3, [250] * 3]).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg(options, mode):
    picture = Image.fromarray(smooth(40, 56)).convert(mode)
    data = encoded(picture, "JPEG", quality=95, **options)
    image = images.decode(data)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert image.shape == (40, 56, 3)
    assert np.abs(image - expected).max() <= 6
    if mode == "L":
        assert (image == image[..., :1]).all()


def test_jpeg_of_cmyk():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:] = (10, 60, 120, 40)
    data = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    red, green, blue = ((255 - c) * (255 - 40) / 255 for c in (10, 60, 120))
    image = images.decode(data)
    assert np.abs(image - np.array([red, green, blue])).max() <= 3


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_and_rounded(kind, channels):
    bgr = np.arange(2**16, dtype=np.uint16).reshape(256, 256, 1)
    bgr = np.concatenate([bgr, bgr[::-1], bgr[:, ::-1]], 2)[..., :channels]
    data = cv2.imencode(kind, bgr)[1].tobytes()
    expected = np.round(bgr[..., ::-1] / 257).astype(np.uint8)
    assert (images.decode(data) == expected).all()


def test_pixels_of_other_types_are_refused():
    data = cv2.imencode(".tiff", np.zeros((4, 5, 3), np.float32))[1].tobytes()
    # OpenCV 4.10 writes floats as LogLuv.
    message = r"x: (pixels must be of 8 or 16 bits, got float32|a TIFF of photometric)"
    with pytest.raises(ImageError, match=message):
        images.decode(data, name="x")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_alpha_is_dropped(kind):
    rgba = noise(13, 9, 4)
    rgba[0, :, 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(rgba, kind, **options)
    assert (images.decode(data) == rgba[..., :3]).all()


def test_alpha_with_grey_a_palette_or_16_bits_is_dropped():
    grey_alpha = noise(13, 9, 2)
    data = encoded(Image.fromarray(grey_alpha, "LA"), "PNG")
    assert (images.decode(data) == grey_alpha[..., :1]).all()
    palette = Image.fromarray(noise(13, 9, 3)).quantize(8)
    data = encoded(palette, "PNG", transparency=int(np.asarray(palette)[0, 0]))
    assert (images.decode(data) == np.asarray(palette.convert("RGB"))).all()
    deep = noise(13, 9, 4, dtype=np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    expected = np.round(deep[..., 2::-1] / 257)
    assert (images.decode(data) == expected).all()


def test_tiff_with_alpha_or_orientation_is_refused():
    data = encoded(noise(13, 9, 4), "TIFF")
    with pytest.raises(ImageError, match="TIFF with alpha"):
        images.decode(data)
    data = encoded(noise(13, 9, 3), "TIFF", tiffinfo={274: 6})
    with pytest.raises(ImageError, match="Orientation"):
        images.decode(data)
    assert images.image_size(data) == (13, 9)


def with_exif(jpeg, orientation):
    """The JPEG with an APP1 segment that says how to turn it."""
    tiff = struct.pack(">2sHIH", b"MM", 42, 8, 1)
    tiff += struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    header = struct.pack(">HH", 0xFFE1, len(segment) + 2)
    return jpeg[:2] + header + segment + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_not_applied(orientation):
    plain = encoded(smooth(40, 56), "JPEG")
    turned = with_exif(plain, orientation)
    if orientation == 6:  # the segment is a right one: others do apply it
        applied = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
        assert applied.shape == (56, 40, 3)
    assert (images.decode(turned) == images.decode(plain)).all()
    assert images.image_size(turned) == (40, 56)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_of_other_formats_is_not_applied(kind):
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(noise(13, 9, 3), kind, exif=exif, **options)
    assert (images.decode(data) == noise(13, 9, 3)).all()
    assert images.image_size(data) == (13, 9)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_many_is_taken(kind):
    pages = [Image.fromarray(np.full((13, 9, 3), v, np.uint8)) for v in (10, 90, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    assert images.image_size(data) == (13, 9)
    try:
        image = images.decode(data)
    except ImageError:
        # Before 4.11 OpenCV read neither GIFs nor animated WebPs.
        assert kind in ("GIF", "WEBP")
        assert not READS_GIF
    else:
        assert (image == 10).all()


def test_transparent_pixels_of_a_gif_show_its_background():
    if not READS_GIF:
        pytest.skip("this OpenCV has no GIF")
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([9, 8, 7, 50, 60, 70, 200, 210, 220])
    data = encoded(picture, "GIF", transparency=1, background=2)
    clear, shown = [200, 210, 220], [9, 8, 7]
    assert images.decode(data).tolist() == [[shown, clear], [clear, clear]]


def test_sources(tmp_path):
    data = encoded(smooth(40, 56), "JPEG")
    path = tmp_path / "ä photo.jpg"
    path.write_bytes(data)
    expected = images.decode(data)
    for source in (path, str(path), bytearray(data), memoryview(data)):
        assert (images.decode(source) == expected).all()
        assert images.image_size(source) == (40, 56)


def test_size_behind_a_long_header(tmp_path):
    """More metadata than is read at first."""
    jpeg = encoded(smooth(40, 56), "JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533)
    path = tmp_path / "long.jpg"
    path.write_bytes(jpeg[:2] + 10 * segment + jpeg[2:])
    assert images.image_size(path) == (40, 56)
    assert images.decode(path).shape == (40, 56, 3)


def test_size_comes_from_the_header_alone():
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        data = encoded(Image.fromarray(smooth(40, 56)), kind)
        head = data[: len(data) * 3 // 4]
        assert images.image_size(head) == (40, 56)


# --- Broken and hostile files -----------------------------------------------


def whole_files():
    picture = Image.fromarray(smooth(40, 56))
    thumbnail = encoded(smooth(16, 16), "JPEG")
    plain = encoded(picture, "JPEG")
    segment = b"Exif\0\0" + thumbnail
    header = struct.pack(">HH", 0xFFE1, len(segment) + 2)
    yield "jpeg", plain
    yield "jpeg_thumbnail", plain[:2] + header + segment + plain[2:]
    yield "jpeg_progressive", encoded(picture, "JPEG", progressive=True)
    yield "jpeg_restarts", encoded(picture, "JPEG", restart_marker_rows=1)
    yield "png", encoded(picture, "PNG")
    yield "bmp", encoded(picture, "BMP")
    yield "bmp_palette", encoded(picture.quantize(16), "BMP")
    yield "webp", encoded(picture, "WEBP")
    yield "webp_lossless", encoded(picture, "WEBP", lossless=True)
    yield "webp_alpha", encoded(noise(13, 9, 4), "WEBP")
    yield "tiff", encoded(picture, "TIFF")
    yield "tiff_lzw", encoded(picture, "TIFF", compression="tiff_lzw")
    if READS_GIF:
        yield "gif", encoded(picture, "GIF")


FILES = dict(whole_files())


def refuses(data):
    """The error, which names the image; never an image."""
    with pytest.raises(ImageError) as caught:
        images.decode(data, name="some/image")
    message = str(caught.value)
    assert message.startswith("some/image: ")
    assert pickle.loads(pickle.dumps(caught.value)).args == (message,)
    return message


@pytest.mark.parametrize("file", FILES)
def test_truncated_files(file):
    data = FILES[file]
    images.decode(data)
    # Everywhere in the header and at the end, and at 60 places between.
    count = len(data)
    positions = {*range(1, min(count, 80)), *range(count - 40, count)}
    positions.update(range(1, count, max(count // 60, 1)))
    for position in sorted(positions):
        if file.startswith("tiff") and position == count - 1:
            # An unused byte that fills the last strip up to an even number.
            continue
        message = refuses(data[:position])
        # By our own walk: what OpenCV finds depends on its version.
        assert "truncated" in message or position < 16, (position, message)


# In the others zeros are pixels, or the decoder's to judge.
@pytest.mark.parametrize("file", [f for f in FILES if f.startswith(("jpeg", "png"))])
def test_files_that_end_in_zeros(file):
    """As an interrupted download leaves them, where space was set aside."""
    data = FILES[file]
    for position in range(len(data) // 4, len(data) - 2, max(len(data) // 20, 1)):
        refuses(data[:position].ljust(len(data), b"\0"))


def test_damage_to_a_png_is_found_anywhere():
    data = FILES["png"]
    for position in range(0, len(data), 7):
        refuses(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])


@pytest.mark.parametrize("file", FILES)
def test_damage_never_crashes_and_never_changes_the_size(file):
    rng = np.random.default_rng(3)
    data = np.frombuffer(FILES[file], np.uint8)
    for _ in range(60):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), 700), 3)
        damaged[places] = rng.integers(0, 256, 3)
        with contextlib.suppress(ImageError):
            image = images.decode(damaged.tobytes(), max_pixels=10**5)
            assert image.shape[:2] == images.image_size(damaged.tobytes())


def huge(kind, side):
    """A small file whose header claims `side` x `side` pixels."""
    if kind == "png":
        return png(side, side, chunk(b"IDAT", zlib.compress(bytes(1000))))
    data = bytearray(FILES["jpeg" if kind == "jpeg" else kind])
    if kind == "jpeg":
        start = re.search(rb"\xff\xc0", data).start()
        data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", side, -side)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "webp":
        side = min(side, 2**14 - 1)
        data[26:30] = struct.pack("<HH", side, side)
    elif kind == "webp_lossless":
        side = min(side, 2**14)
        data[21:25] = struct.pack("<I", side - 1 | side - 1 << 14)
    elif kind == "webp_alpha":
        data[24:30] = 2 * (side - 1).to_bytes(3, "little")
    else:
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize(
    "kind", [k for k in FILES if not re.fullmatch("(jpeg|bmp|tiff)_.*", k)]
)
def test_decompression_bombs(kind):
    data = huge(kind, 50_000)
    side = images.image_size(data)[0]
    assert side == {"webp": 2**14 - 1, "webp_lossless": 2**14}.get(kind, 50_000)
    tracemalloc.start()
    before = time.perf_counter()
    message = refuses(data)
    elapsed = time.perf_counter() - before
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{side} x {side} pixels" in message
    assert "max_pixels=67108864" in message
    assert elapsed < 1
    assert peak < 10**6


def test_max_pixels():
    data = FILES["jpeg"]
    assert images.decode(data, max_pixels=40 * 56).shape == (40, 56, 3)
    with pytest.raises(ImageError, match=r"40 x 56 pixels .* max_pixels=2239"):
        images.decode(data, max_pixels=40 * 56 - 1)
    # A header that claims what may be decoded is found out by the data.
    for kind in ("png", "bmp", "webp", "webp_alpha", "tiff"):
        refuses(huge(kind, 2000))


def test_what_decoders_could_read_differently():
    jpeg = FILES["jpeg"]
    frame = re.search(rb"\xff\xc0\x00\x11", jpeg).start()
    header = jpeg[frame : frame + 19]
    assert "more than one frame" in refuses(jpeg[:frame] + header + jpeg[frame:])
    assert "within" in refuses(jpeg[:2] + jpeg)
    assert "without a frame" in refuses(jpeg[:frame] + jpeg[frame + 19 :])
    assert "without image data" in refuses(jpeg[: frame + 19] + b"\xff\xd9")
    twelve = jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    assert "12 bits" in refuses(twelve)
    pixels = chunk(b"IDAT", zlib.compress(bytes(8)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0))
    assert "two headers" in refuses(png(2, 1, header, pixels))
    assert "without image data" in refuses(png(2, 1))
    assert "0 x 2 pixels" in refuses(png(2, 0, pixels))
    tiff = FILES["tiff"]
    (start,) = struct.unpack_from("<I", tiff, 4)
    twice = tiff[: start + 14] + tiff[start + 2 : start + 14] + tiff[start + 26 :]
    assert "second tag ImageWidth" in refuses(twice)


def test_blocks_that_do_not_fit():
    data = bytearray(FILES["tiff"])
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = {
        struct.unpack_from("<H", data, entry)[0]: entry
        for entry in range(start + 2, start + 2 + 12 * count, 12)
    }

    def with_tag(tag, kind, number, value):
        changed = bytearray(data)
        struct.pack_into("<HHII", changed, tags[tag], tag, kind, number, value)
        return bytes(changed)

    images.decode(with_tag(279, 4, 1, 40 * 56 * 3))
    missing = "damaged: TIFF without all of its pixels"
    assert missing in refuses(with_tag(279, 4, 1, 40 * 56 * 3 - 1))
    assert missing in refuses(with_tag(278, 3, 1, 20))  # two strips, one given
    assert "truncated: TIFF" in refuses(with_tag(273, 4, 1, len(data)))
    assert "truncated: TIFF" in refuses(with_tag(273, 4, 2**31, 8))

    webp = FILES["webp"]
    (length,) = struct.unpack_from("<I", webp, 16)
    longer = webp[:16] + struct.pack("<I", length + 2) + webp[20:]
    assert "WebP chunks do not end with the file" in refuses(longer)

    picture = Image.fromarray(np.zeros((6, 6), np.uint8), "P")
    gif = encoded(picture, "GIF")
    frame = gif.index(b",\0\0\0\0\6\0\6\0")
    shifted = gif[: frame + 1] + b"\1" + gif[frame + 2 :]
    assert "frame larger than the image" in refuses(shifted)


def test_a_size_that_is_not_that_of_the_header(monkeypatch):
    """No file is known that gets here; decoders have had bugs."""
    other = np.zeros((41, 56, 3), np.uint8)
    monkeypatch.setattr(images.cv2, "imdecode", lambda data, flags: other)
    message = refuses(FILES["jpeg"])
    assert "says 40 x 56 pixels" in message
    assert "data 41 x 56" in message


def test_png_with_too_little_data():
    data = png(8, 8, chunk(b"IDAT", zlib.compress(bytes(100))))
    assert "cannot decode this PNG" in refuses(data)


def test_floods_of_small_parts():
    jpeg = FILES["jpeg_progressive"]
    scan = re.search(rb"\xff\xda.*?(?=\xff[\x02-\xcf\xd8-\xfe])", jpeg, re.S)
    many = jpeg[: scan.end()] + 200 * scan[0] + jpeg[scan.end() :]
    assert "scans" in refuses(many)
    flood = jpeg[:2] + 10**6 * b"\xff\xfe\0\x02" + jpeg[2:]
    assert "more than 65536 segments" in refuses(flood)
    flood = png(2, 1, 10**5 * chunk(b"IDAT"))
    assert "more than 65536 chunks" in refuses(flood)
    before = time.perf_counter()
    assert "truncated" in refuses(b"\xff\xd8" + 10**7 * b"\xff")
    assert "truncated" in refuses(FILES["jpeg"][:300] + 10**7 * b"\xff\0")
    assert time.perf_counter() - before < 5


def test_random_bytes():
    rng = np.random.default_rng(2)
    signatures = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a")
    signatures += (b"RIFF\x80\0\0\0WEBP", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08")
    for signature, size in itertools.product(signatures, (0, 1, 9, 100, 3000)):
        data = signature + rng.bytes(size)
        if data:
            refuses(data)
            with pytest.raises(ImageError):
                images.image_size(data[:6])
    assert "none of the formats JPEG, PNG, BMP, GIF, WebP, TIFF" in refuses(
        b"P6 1 1 255"
    )


def test_files_that_are_none(tmp_path):
    empty = tmp_path / "empty.jpg"
    empty.touch()
    broken = tmp_path / "broken.png"
    broken.write_bytes(FILES["png"][:100])
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    missing = tmp_path / "missing.jpg"
    for path, problem in (
        (empty, "empty"),
        (broken, "truncated"),
        (missing, "No such file"),
        (tmp_path, "a directory"),
        (pipe, "no regular file"),
        ("a\0b", "null"),
    ):
        for source in {path, str(path)}:
            with pytest.raises(ImageError, match=problem) as caught:
                images.decode(source)
            assert str(caught.value).startswith(f"{path}: ")
            if path is not broken:
                with pytest.raises(ImageError, match=problem):
                    images.image_size(source)
    with pytest.raises(ImageError, match=r"^record 7: .*No such file"):
        images.decode(missing, name="record 7")
    with pytest.raises(ImageError, match=r"^<0 bytes>: empty"):
        images.decode(b"")
    with pytest.raises(TypeError, match=r"source must be a path or the bytes.*ndarray"):
        images.decode(np.zeros(3))


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path):
    sparse = tmp_path / "large.jpg"
    sparse.write_bytes(b"\xff\xd8\xff")
    os.truncate(sparse, 2**36)
    before = time.perf_counter()
    for function in (images.decode, images.image_size):
        with pytest.raises(ImageError, match=r"large.jpg: a file of 68719476736 bytes"):
            function(sparse)
    assert time.perf_counter() - before < 1
    sparse.write_bytes(FILES["jpeg"])
    assert images.decode(sparse, max_pixels=2240).shape == (40, 56, 3)


# --- Arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "fields"),
    [
        (TypeError, "scales must be a tuple", {"scales": 600}),
        (ValueError, "scales must not be empty", {"scales": ()}),
        (TypeError, "scales must be an int, got 1.5", {"scales": (600, 1.5)}),
        (ValueError, "max_size must be at least 1, got 0", {"max_size": 0}),
        (TypeError, "max_size must be an int, got True", {"max_size": True}),
        (ValueError, "means must be three numbers", {"means": (1, 2)}),
        (TypeError, "means must be numbers", {"means": (1, 2, "3")}),
        (ValueError, "means must be finite", {"means": (1, 2, float("nan"))}),
        (ValueError, 'channels must be "RGB" or "BGR"', {"channels": "rgb"}),
        (TypeError, "buckets must be pairs", {"buckets": 600}),
        (ValueError, "buckets must not be empty", {"buckets": ()}),
        (
            ValueError,
            r"buckets must be pairs .* got \(1, 2, 3\)",
            {"buckets": [(1, 2, 3)]},
        ),
        (ValueError, "buckets must be at least 1", {"buckets": [(0, 2)]}),
        (ValueError, 'transport must be "float32" or', {"transport": "float16"}),
    ],
)
def test_configuration_errors(error, message, fields):
    with pytest.raises(error, match=message):
        ImageConfig(**fields)


def test_configuration():
    config = ImageConfig(scales=[480, 600], means=[1, 2, 3], buckets=[[8, 9]])
    assert config.scales == (480, 600)
    assert config.pixel_means == (1.0, 2.0, 3.0)
    assert config.bucket_sizes == ((8, 9),)
    assert hash(config) == hash(dataclasses.replace(config))
    assert ImageConfig().pixel_means == CAFFE_MEANS[::-1]
    swapped = dataclasses.replace(ImageConfig(), channels="BGR")
    assert swapped.pixel_means == CAFFE_MEANS


def test_lists_of_sizes_have_an_order_and_are_named():
    config = ImageConfig()
    calls = {
        "scales": [
            lambda v: images.default_buckets(v, 400),
            lambda v: ImageConfig(scales=v),
        ],
        "buckets": [
            lambda v: images.bucket_for(9, 9, v),
            lambda v: images.bucket_for(9, 9, [v]),
            lambda v: ImageConfig(buckets=v),
            lambda v: ImageConfig(buckets=[v]),
        ],
        "means": [lambda v: ImageConfig(means=v)],
    }
    for name, functions in calls.items():
        for call in functions:
            for value in ({256}, frozenset([(9, 9)]), {1, 2, 3}, set()):
                with pytest.raises(TypeError, match=f"^{name} must be .* no order"):
                    call(value)
            for value in (256, config, "ab", b"ab", object()):
                with pytest.raises(TypeError, match=f"^{name} must be .*got"):
                    call(value)
    image = np.zeros((2, 2, 3), np.uint8)
    for out in (None, np.zeros((9, 9, 3), np.float32)):
        for bad in (9, {8, 9}):
            with pytest.raises(
                TypeError, match=r"^bucket must be \(height, width\), got"
            ):
                images.prepare(image, 1, config, bucket=bad, out=out)
        images.prepare(image, 1, config, bucket=[9, 9], out=out)
    # Whatever else has one is as good as a tuple.
    assert images.default_buckets(iter([256]), 400) == images.default_buckets(
        [256], 400
    )
    assert ImageConfig(scales=np.array([256]), buckets={(9, 9): 1}).buckets == ((9, 9),)
    with pytest.raises(TypeError, match="config must be an ImageConfig, got 3"):
        images.prepare(np.zeros((2, 2, 3), np.uint8), 1, 3)


def test_argument_errors():
    image = np.zeros((4, 4, 3), np.uint8)
    config = ImageConfig()
    for bad, error, message in (
        (image.tolist(), TypeError, "image must be a NumPy array, got list"),
        (image.astype(float), TypeError, "image must be uint8, got float64"),
        (image[..., 0], ValueError, r"image must be \[H, W, 3\] .* got \[4, 4\]"),
        (image[:0], ValueError, "not empty"),
    ):
        with pytest.raises(error, match=message):
            images.prepare(bad, 1.0, config)
    place = np.zeros((4, 8, 3), np.float32)
    for out in (place[:, ::2], place[::-1, :4], np.zeros((3, 4, 4), "f4").T):
        with pytest.raises(ValueError, match="out must have the pixels of a row one"):
            images.prepare(image, 1.0, config, out=out)
    for scale, error in ((0, ValueError), (float("inf"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="scale must be"):
            images.prepare(image, scale, config)
    with pytest.raises(ValueError, match="height must be at least 1"):
        images.scale_for(0, 5, 600, 1000)
    with pytest.raises(TypeError, match="target must be an int"):
        images.scale_for(5, 5, 600.0, 1000)
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        images.decode(b"x", max_pixels=0)
    with pytest.raises(TypeError, match="image must be a NumPy array"):
        images.flip([[1]])
    with pytest.raises(ValueError, match=r"\[H, W, C\] or \[H, W\]"):
        images.flip(np.zeros(3))
    with pytest.raises(TypeError, match="data must be uint8 or float32, got int32"):
        images.to_features(np.zeros((2, 2, 3), np.int32), np.zeros(3), config)
    with pytest.raises(ValueError, match=r"data must be \[N, H, W, 3\]"):
        images.to_features(image[..., 0], np.zeros(3), config)
    with pytest.raises(ValueError, match=r"im_info must be \[1, 3\] for data"):
        images.to_features(image[None], np.zeros(3), config)


# --- Documents --------------------------------------------------------------

PUBLIC = (
    "decode",
    "image_size",
    "scale_for",
    "resized_size",
    "default_buckets",
    "bucket_for",
    "flip",
    "prepare",
    "to_features",
)


def test_docstrings():
    result = doctest.testmod(images, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 20
    assert result.failed == 0
    for name in PUBLIC:
        for part in ("Args:", "Returns:", "Raises:", "Example:", ">>>"):
            assert part in getattr(images, name).__doc__, (name, part)


def test_page(tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs/data_images.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    assert blocks
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(smooth(375, 500), "JPEG"))
    namespace = {"path": photo}
    for block in blocks:
        exec(block, namespace)
    assert namespace["features"].shape == (1, 608, 800, 3)
