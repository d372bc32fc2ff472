"""Minibatches, blob for blob: the oracle's loops over random records."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2

from jax_roipool import data, roi_pool
from jax_roipool.data import (
    ImageConfig,
    ImageError,
    LayerConfig,
    Minibatch,
    Record,
    Roidb,
    SamplingConfig,
    get_minibatch,
)
from tests.data.sets import K, png, roidb_of
from tests.oracle import data as data_oracle

MEANS = (122.7717, 115.9465, 102.9801)
IMAGES = ImageConfig(scales=(50,), max_size=90, buckets=[(64, 96), (96, 64), (96, 96)])


def config_of(images=3, **settings):
    sampling = SamplingConfig(batch_rois=16 * images, images_per_batch=images)
    return LayerConfig(**{"images": IMAGES, "sampling": sampling, **settings})


def expected(roidb, config, rng, bucket):
    """What the rules say, image by image; data in float64."""
    n, r = config.batch_size, config.sampling.rois_per_image
    blobs = {
        "data": np.zeros((n, *bucket, 3)),
        "im_info": np.tile(np.array([*bucket, 1], np.float32), (n, 1)),
        "image_weights": np.zeros(n, np.float32),
        "image_index": np.full(n, -1, np.int32),
    }
    most = max(int(record.trainable.sum()) for record in roidb)
    if config.has_rpn:
        blobs["gt_boxes"] = np.zeros((n, max(most, 1), 5), np.float32)
        blobs["gt_valid"] = np.zeros((n, max(most, 1)), bool)
    else:
        blobs["rois"] = np.zeros((n, r, 4), np.float32)
        blobs["labels"] = np.zeros((n, r), np.int32)
        for name in ("targets", "inside_weights", "outside_weights"):
            blobs[f"bbox_{name}"] = np.zeros((n, r, 4 * K))
        blobs["valid"] = np.zeros((n, r), bool)
    for i, record in enumerate(roidb):
        image = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)
        image = image[..., ::-1] - np.array(MEANS)
        if record.flipped:
            image = image[:, ::-1]
        short, long = sorted(image.shape[:2])
        scale = 50 / short if round(long * 50 / short) <= 90 else 90 / long
        resized = cv2.resize(image, None, None, scale, scale, cv2.INTER_LINEAR)
        height, width = resized.shape[:2]
        blobs["data"][i, :height, :width] = resized
        blobs["im_info"][i] = height, width, scale
        blobs["image_weights"][i] = 1
        blobs["image_index"][i] = i
        factor = np.float32(scale)
        if config.has_rpn:
            place = 0
            for box, k, difficult, crowd in zip(
                record.boxes,
                record.classes,
                record.difficult,
                record.crowd,
                strict=True,
            ):
                if not difficult and not crowd:
                    blobs["gt_boxes"][i, place] = [*(box * factor), k]
                    blobs["gt_valid"][i, place] = True
                    place += 1
            continue
        drawn = data_oracle.sample(record, rng, K, count=r)
        rois, *rest = drawn
        for name, value in zip(list(blobs)[4:], [rois * factor, *rest], strict=True):
            blobs[name][i] = value
    return blobs


def assert_is(batch, want):
    got = batch._asdict()
    assert {name for name, value in got.items() if value is not None} == set(want)
    for name, value in want.items():
        exact = value.dtype != np.float64
        assert got[name].dtype == (value.dtype if exact else np.float32), name
        if exact:
            np.testing.assert_array_equal(got[name], value, name)
        else:
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("has_rpn", [True, False])
@pytest.mark.parametrize("flipped", [True, False])
def test_blob_for_blob(has_rpn, flipped):
    roidb = roidb_of(12)
    if flipped:
        roidb = roidb.with_flips()[12:]
    config = config_of(has_rpn=has_rpn)
    for first in range(0, 12, 3):
        part = roidb[first : first + 3]
        rngs = [np.random.default_rng(first) for _ in range(2)]
        batch = get_minibatch(part, K, config, rng=rngs[0])
        # The scale is drawn first, if there is but one.
        rngs[1].choice(IMAGES.scales)
        assert_is(batch, expected(part, config, rngs[1], batch.data.shape[1:3]))


def test_fewer_images_are_padded_with_weight_zero():
    config = config_of(4)
    batch = get_minibatch(roidb_of(3)[1:3], K, config, rng=np.random.default_rng(0))
    assert batch.image_weights.tolist() == [1, 1, 0, 0]
    assert batch.image_index.tolist() == [0, 1, -1, -1]
    assert not batch.valid[2:].any()
    for blob in (batch.data, batch.rois, batch.labels, batch.bbox_inside_weights):
        assert not blob[2:].any()
    height, width = batch.data.shape[1:3]
    assert batch.im_info[2:].tolist() == [[height, width, 1]] * 2


def test_ground_truth_padding():
    roidb = roidb_of(4)
    for most in (None, 20):
        config = config_of(4, has_rpn=True, max_gt_boxes=most)
        batch = get_minibatch(roidb, K, config, rng=np.random.default_rng(0))
        counts = [int(r.trainable.sum()) for r in roidb]
        assert batch.gt_valid.sum(axis=1).tolist() == counts
        assert batch.gt_boxes.shape == (4, most or max(counts), 5)
    with pytest.raises(
        ValueError, match=r"max_gt_boxes must be at least \d, the boxes"
    ):
        get_minibatch(
            roidb,
            K,
            config_of(4, has_rpn=True, max_gt_boxes=1),
            rng=np.random.default_rng(0),
        )


def test_without_box_regression():
    sampling = SamplingConfig(batch_rois=8, images_per_batch=1, bbox_reg=False)
    config = config_of(sampling=sampling)
    batch = get_minibatch(roidb_of(1), K, config, rng=np.random.default_rng(0))
    assert batch.bbox_targets is batch.bbox_inside_weights is None
    assert batch.labels.shape == (1, 8)


def test_uint8_transport_is_the_same_after_to_features():
    roidb, blobs = roidb_of(3), []
    for transport in ("float32", "uint8"):
        config = config_of(images=3)
        images = dataclasses.replace(IMAGES, transport=transport)
        config = dataclasses.replace(config, images=images)
        batch = get_minibatch(roidb, K, config, rng=np.random.default_rng(0))
        assert batch.data.dtype == transport
        blobs.append(data.to_features(batch.data, batch.im_info, images))
    np.testing.assert_allclose(*blobs, atol=0.502, rtol=0)


def test_a_minibatch_is_a_pytree_that_roi_pool_takes():
    batch = get_minibatch(roidb_of(3), K, config_of(), rng=np.random.default_rng(0))
    assert isinstance(jax.tree.map(np.zeros_like, batch), Minibatch)

    @jax.jit
    def step(batch):
        features = data.to_features(batch.data, batch.im_info, IMAGES)
        return roi_pool(features, batch.rois, 7, valid=batch.valid)

    pooled = step(batch)
    assert pooled.shape == (3, 16, 7, 7, 3)
    inside = roi_pool(batch.data[0], batch.rois[0], 7)
    np.testing.assert_array_equal(pooled[0][batch.valid[0]], inside[batch.valid[0]])
    assert not np.asarray(pooled)[~batch.valid].any()


# --- Bad input ----------------------------------------------------------------


def one(image, height=60, width=80, **fields):
    record = Record("7", image, height, width, [[0, 0, 9, 9]], [1], **fields)
    return Roidb.from_records([record], ["cat"])


IMAGE = png(np.zeros((60, 80, 3), np.uint8))


@pytest.mark.parametrize(
    ("image", "size", "message"),
    [
        (IMAGE[:-9], (60, 80), "record '7': truncated: PNG without its last chunk"),
        (b"no image", (60, 80), "record '7': "),
        ("nowhere.jpg", (60, 80), "nowhere.jpg: No such file"),
        (
            IMAGE,
            (80, 60),
            "record '7': the image is 60 x 80 .* its record '7' says 80 x 60; see "
            "EXIF orientation in docs/data_images.md",
        ),
    ],
)
def test_images_that_cannot_be_read(image, size, message, caplog):
    roidb = one(image, *size)
    config = config_of(1, has_rpn=True)
    with pytest.raises(ImageError, match=message):
        get_minibatch(roidb, 2, config, rng=np.random.default_rng(0))

    config = dataclasses.replace(config, bad_images="skip")
    with caplog.at_level(logging.WARNING, "jax_roipool.data"):
        batch = get_minibatch(roidb, 2, config, rng=np.random.default_rng(0))
    assert "image left out: " in caplog.text
    assert batch.image_weights.tolist() == [0]
    assert batch.image_index.tolist() == [0]
    assert not batch.data.any()
    assert not batch.gt_valid.any()


def call(roidb=None, num_classes=2, config=None, rng=None):
    config = config_of(1, has_rpn=True) if config is None else config
    rng = np.random.default_rng(0) if rng is None else rng
    return get_minibatch(roidb or one(IMAGE), num_classes, config, rng=rng)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"roidb": [1]}, TypeError, "roidb must be a Roidb, got list; Roidb.from_rec"),
        ({"num_classes": 1}, ValueError, "num_classes must be at least .* 2 with"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an int, got 2.0"),
        ({"rng": 7}, TypeError, "rng must be a numpy.random.Generator, got int"),
        ({"config": {}}, TypeError, "config must be a LayerConfig, got {}"),
        ({"config": config_of(1)}, ValueError, "roidb has no proposals .* add_prop"),
        (
            {
                "roidb": roidb_of(1),
                "num_classes": K,
                "config": LayerConfig(
                    sampling=SamplingConfig(bbox_stds=np.ones((3, 4)))
                ),
            },
            ValueError,
            "bbox_stds must have one row per class, 5, got 3",
        ),
        (
            {"roidb": roidb_of(2), "num_classes": K},
            ValueError,
            "roidb must have at most 1 records, config.batch_size, got 2",
        ),
    ],
)
def test_bad_input(bad, error, message):
    with pytest.raises(error, match=message):
        call(**bad)


def test_wide_and_tall_in_one_batch():
    """Of the default buckets none holds both: a square does, as in the layer."""
    tall = png(np.zeros((80, 60, 3), np.uint8))
    roidb = one(IMAGE) + one(tall, 80, 60)
    config = LayerConfig(has_rpn=True)
    batch = get_minibatch(roidb, 2, config, rng=np.random.default_rng(0))
    assert batch.data.shape == (2, 1024, 1024, 3)
    assert batch.im_info[:, :2].tolist() == [[600, 800], [800, 600]]
    images = ImageConfig(buckets=((608, 1000), (1000, 608)))
    config = LayerConfig(images=images, has_rpn=True)
    with pytest.raises(ValueError, match="buckets must have one that holds the high"):
        get_minibatch(roidb, 2, config, rng=np.random.default_rng(0))


def test_no_images():
    with pytest.raises(ValueError, match="roidb must not be empty: no images"):
        get_minibatch(one(IMAGE)[:0], 2, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"images": 600}, TypeError, "images must be a ImageConfig, got 600"),
        ({"sampling": None}, TypeError, "sampling must be a SamplingConfig, got None"),
        ({"has_rpn": 1}, TypeError, "has_rpn must be a bool, got 1"),
        ({"shuffle": "no"}, TypeError, "shuffle must be a bool, got 'no'"),
        ({"max_gt_boxes": 0}, ValueError, "max_gt_boxes must be at least 1, got 0"),
        ({"max_gt_boxes": 2.5}, TypeError, "max_gt_boxes must be an int, got 2.5"),
        ({"bad_images": "drop"}, ValueError, 'bad_images must be "error" or "skip"'),
    ],
)
def test_bad_config(fields, error, message):
    with pytest.raises(error, match=message):
        LayerConfig(**fields)
