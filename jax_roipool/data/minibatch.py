"""Minibatches: from the records of a batch to the blobs of a training step."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_roipool.arguments import check_int
from jax_roipool.data.checks import instance
from jax_roipool.data.config import LayerConfig
from jax_roipool.data.images import (
    ImageError,
    decode,
    flip,
    prepare,
    scale_for,
)
from jax_roipool.data.plan import Step, bucket_of_all
from jax_roipool.data.roidb import Array, Record, Roidb
from jax_roipool.data.sampling import Sample, sample

logger = logging.getLogger("jax_roipool.data")


class Minibatch(NamedTuple):
    """The blobs of one training step, under py-faster-rcnn's names. A pytree.

    N images, all of one bucket (H, W); G ground-truth boxes and R RoIs per image,
    both padded; K classes with the background. Boxes are float32 pixels of `data`
    (times the scale of the image), corners inclusive. End to end (`has_rpn`) there
    is ground truth; else there are RoIs. What is not there is `None`.

    Attributes:
      data: [N, H, W, 3], float32, or uint8 with the mean still to be subtracted:
        `to_features` does that, and lets float32 pass.
      im_info: float32 [N, 3], (height, width, scale) before padding.
      image_weights: float32 [N]: 1, or 0 for an image that only fills the batch
        or could not be read (all its boxes are invalid).
      image_index: int32 [N], the record's place in the roidb; -1 for padding.
      gt_boxes: float32 [N, G, 5], (x1, y1, x2, y2, class), without difficult and
        crowd boxes; padding is 0.
      gt_valid: bool [N, G], false for padding.
      rois: float32 [N, R, 4], as `roi_pool` takes them for a batch.
      labels: int32 [N, R].
      bbox_targets: float32 [N, R, 4 * K]; `None` without `bbox_reg`, like the
        weights.
      bbox_inside_weights: float32 [N, R, 4 * K].
      bbox_outside_weights: float32 [N, R, 4 * K].
      valid: bool [N, R]: false for padding, whose label is 0 and which must have
        no part in any loss.

    Example:
      >>> from jax_roipool.data import Minibatch
      >>> Minibatch._fields[:4]
      ('data', 'im_info', 'image_weights', 'image_index')
    """

    data: Array | jax.Array
    im_info: Array | jax.Array
    image_weights: Array | jax.Array
    image_index: Array | jax.Array
    gt_boxes: Array | jax.Array | None = None
    gt_valid: Array | jax.Array | None = None
    rois: Array | jax.Array | None = None
    labels: Array | jax.Array | None = None
    bbox_targets: Array | jax.Array | None = None
    bbox_inside_weights: Array | jax.Array | None = None
    bbox_outside_weights: Array | jax.Array | None = None
    valid: Array | jax.Array | None = None


def minibatch_spec(
    config: LayerConfig,
    num_classes: int,
    bucket: tuple[int, int],
    gt_boxes: int,
    count: int,
) -> Minibatch:
    """Shapes and dtypes of minibatches: `count` images of a bucket, `gt_boxes` G."""
    n, r = count, config.sampling.rois_per_image

    # Specs stand where a minibatch has arrays.
    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((n, *shape), dtype)

    common = {
        "data": array(config.images.transport, *bucket, 3),
        "im_info": array(np.float32, 3),
        "image_weights": array(np.float32),
        "image_index": array(np.int32),
    }
    if config.has_rpn:
        return Minibatch(
            **common,
            gt_boxes=array(np.float32, gt_boxes, 5),
            gt_valid=array(np.bool_, gt_boxes),
        )
    blobs = dict.fromkeys(
        ("bbox_targets", "bbox_inside_weights", "bbox_outside_weights"),
        array(np.float32, r, 4 * num_classes) if config.sampling.bbox_reg else None,
    )
    return Minibatch(
        **common,
        rois=array(np.float32, r, 4),
        labels=array(np.int32, r),
        valid=array(np.bool_, r),
        **blobs,
    )


def nbytes(spec: Minibatch) -> int:
    """Memory of a minibatch's arrays, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(spec))


def _empty(spec: Minibatch) -> Any:
    """A batch of nothing but padding; its images are to be written."""
    # Zeroing megabytes of pixels only to write them again takes time.
    data = np.empty(spec.data.shape, spec.data.dtype)
    rest: Any = (
        None if leaf is None else np.zeros(leaf.shape, leaf.dtype) for leaf in spec[1:]
    )
    batch = Minibatch(data, *rest)
    height, width = batch.data.shape[1:3]
    batch.im_info[:] = height, width, 1
    batch.image_index[:] = -1
    return batch


def _fill(
    batch: Any,  # a minibatch of NumPy arrays
    i: int,
    record: Record,
    rng: np.random.Generator,
    target: int,
    num_classes: int,
    config: LayerConfig,
) -> None:
    """Writes an image and its boxes into place `i` of a batch.

    Raises:
      ImageError: The image cannot be read, or is not of the size that its record
        says.
    """
    in_memory = isinstance(record.image, bytes)
    name = f"record {record.id!r}" if in_memory else str(record.image)
    image = decode(record.image, name=name)
    height, width = image.shape[:2]
    if (height, width) != (record.height, record.width):
        raise ImageError(
            f"{name}: the image is {height} x {width} (height x "
            f"width), its record {record.id!r} says {record.height} x {record.width}; "
            "see EXIF orientation in docs/data_images.md where they are swapped"
        )
    if record.flipped:
        image = flip(image)
    max_size = config.images.max_size
    scale = scale_for(height, width, target, max_size)
    _, batch.im_info[i] = prepare(image, scale, config.images, out=batch.data[i])
    batch.image_weights[i] = 1
    # The factor as the step sees it.
    factor = batch.im_info[i, 2]
    if config.has_rpn:
        boxes = record.boxes[record.trainable]
        count = len(boxes)
        batch.gt_boxes[i, :count, :4] = boxes * factor
        batch.gt_boxes[i, :count, 4] = record.classes[record.trainable]
        batch.gt_valid[i, :count] = True
        return
    drawn = sample(record, rng, config.sampling, num_classes)
    for field in Sample._fields:
        value = getattr(drawn, field)
        if value is not None:
            getattr(batch, field)[i] = value * factor if field == "rois" else value


def gt_counts(roidb: Roidb) -> Array:
    """How many boxes of each record may be samples, int64 [len(roidb)]."""
    columns = roidb.columns
    trainable = ~(columns["difficult"] | columns["crowd"])
    before = np.concatenate([[0], np.cumsum(trainable)])
    per_image = np.diff(before[columns["box_offsets"]])
    return per_image[columns["index"]]


def check_records(roidb: Roidb, num_classes: int, config: LayerConfig) -> int:
    """Checks that minibatches can be made of a roidb.

    Returns:
      G, the ground-truth boxes to pad to.

    Raises:
      TypeError, ValueError: They cannot; says why.
    """
    if not isinstance(roidb, Roidb):
        raise TypeError(
            f"roidb must be a Roidb, got {type(roidb).__name__}; "
            "Roidb.from_records makes one"
        )
    if not len(roidb):
        raise ValueError("roidb must not be empty: no images")
    instance("config", config, LayerConfig)
    if check_int("num_classes", num_classes, 1) < roidb.num_classes:
        raise ValueError(
            f"num_classes must be at least that of the roidb, {roidb.num_classes} "
            f"with the background, got {num_classes}"
        )
    if not (config.has_rpn or roidb.has_proposals):
        raise ValueError(
            "roidb has no proposals to sample RoIs from: call add_proposals, or set "
            "has_rpn for end-to-end training"
        )
    if not config.has_rpn and config.sampling.bbox_reg:
        config.sampling.normalization(num_classes)
    counts = gt_counts(roidb)
    most = int(counts.max())
    if config.max_gt_boxes is None:
        return max(most, 1)
    if config.has_rpn and most > config.max_gt_boxes:
        record = roidb[int(counts.argmax())]
        raise ValueError(
            f"max_gt_boxes must be at least {most}, the boxes of record "
            f"{record.id!r}, got {config.max_gt_boxes}: no box is dropped"
        )
    return config.max_gt_boxes


def make_minibatch(
    roidb: Roidb,
    step: Step,
    rngs: Sequence[np.random.Generator],
    num_classes: int,
    config: LayerConfig,
    spec: Minibatch,
) -> tuple[Minibatch, list[str]]:
    """The minibatch of a step, as its `spec` says; one generator per image.

    Returns:
      The minibatch, and what is wrong with the images that could not be read:
      with `bad_images="skip"` they are images of weight zero.
    """
    batch = _empty(spec)
    problems = []
    for i, index in enumerate(step.image_index.tolist()):
        if index < 0:
            batch.data[i] = 0
            continue
        batch.image_index[i] = index
        try:
            _fill(batch, i, roidb[index], rngs[i], step.target, num_classes, config)
        except ImageError as error:
            if config.bad_images == "error":
                raise
            problems.append(str(error))
            batch.data[i] = 0
    return batch, problems


def get_minibatch(
    roidb: Roidb,
    num_classes: int,
    config: LayerConfig | None = None,
    *,
    rng: np.random.Generator,
) -> Minibatch:
    """The blobs of a few images: what `RoIDataLayer` makes of every step.

    Args:
      roidb: At most `config.batch_size` records, such as `roidb[4:6]`; fewer are
        padded with images of weight zero.
      num_classes: With the background, K.
      config: Defaults to `LayerConfig()`. One of its scales is drawn; the bucket is
        the smallest that holds all images, and G the most boxes that one has,
        unless `max_gt_boxes` says.
      rng: The only source of chance.

    Returns:
      NumPy arrays; `image_index` counts within `roidb`.

    Raises:
      ImageError: An image cannot be read, or is not of the size that its record
        says; with `bad_images="skip"` it has weight zero and is logged.
      TypeError, ValueError: An argument is not as described.

    Example:
      >>> import cv2, numpy as np
      >>> from jax_roipool.data import LayerConfig, Record, Roidb, get_minibatch
      >>> _, png = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))
      >>> record = Record("7", png.tobytes(), 60, 80, [[0, 0, 7, 7]], [1])
      >>> roidb = Roidb.from_records([record], ["cat"])
      >>> batch = get_minibatch(roidb, 2, LayerConfig(has_rpn=True),
      ...                       rng=np.random.default_rng(0))
      >>> batch.data.shape, batch.image_weights
      ((2, 608, 800, 3), array([1., 0.], dtype=float32))
      >>> batch.gt_boxes[0]
      array([[ 0.,  0., 70., 70.,  1.]], dtype=float32)
    """
    config = LayerConfig() if config is None else config
    gt_boxes = check_records(roidb, num_classes, config)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {type(rng).__name__}"
        )
    count = config.batch_size
    if len(roidb) > count:
        raise ValueError(
            f"roidb must have at most {count} records, config.batch_size, got "
            f"{len(roidb)}"
        )
    index = np.full(count, -1)
    index[: len(roidb)] = np.arange(len(roidb))
    target = int(rng.choice(config.images.scales))
    sizes = list(zip(roidb.heights.tolist(), roidb.widths.tolist(), strict=True))
    try:
        bucket = bucket_of_all(sizes, target, config.images)
    except ValueError as error:
        raise ValueError(
            f"config.images.buckets must have one that holds the highest and the "
            f"widest image of the roidb: {error}"
        ) from None
    step = Step(index, target, bucket)
    spec = minibatch_spec(config, num_classes, bucket, gt_boxes, count)
    batch, problems = make_minibatch(
        roidb, step, [rng] * count, num_classes, config, spec
    )
    for problem in problems:
        logger.warning("image left out: %s", problem)
    return batch
