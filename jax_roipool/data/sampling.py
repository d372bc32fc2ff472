"""Sampling: from an image's boxes and proposals to the RoIs of a training step.

The rules of Fast R-CNN (Girshick 2015, section 2.3), with py-faster-rcnn's numbers.
A fixed number of RoIs per image comes out whatever the image has. NumPy only, and
pure: the same record, generator state and configuration give the same sample.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jax_roipool import boxes as _boxes
from jax_roipool.arguments import check_int
from jax_roipool.data import checks
from jax_roipool.data.roidb import Array, Record

_FOUR = ("bbox_means", "bbox_stds", "bbox_inside_weights")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How RoIs are sampled; behind each field py-faster-rcnn's key.

    Attributes:
      batch_rois: RoIs of all images of a batch (`TRAIN.BATCH_SIZE`).
      images_per_batch: Shares them evenly (`TRAIN.IMS_PER_BATCH`).
      fg_fraction: At most this share of an image's RoIs is foreground, rounded to
        whole RoIs, halves to even (`TRAIN.FG_FRACTION`).
      fg_threshold: Foreground overlaps ground truth by at least this
        (`TRAIN.FG_THRESH`).
      bg_threshold_high: Background overlaps by less than this
        (`TRAIN.BG_THRESH_HI`) ...
      bg_threshold_low: ... and at least this (`TRAIN.BG_THRESH_LO`): 0.1 finds
        hard examples among external proposals; 0.0 for end-to-end training.
      bbox_reg: Whether there are box targets (`TRAIN.BBOX_REG`).
      bbox_threshold: Only RoIs that overlap by at least this get box targets
        (`TRAIN.BBOX_THRESH`).
      bbox_means: Subtracted from targets (`TRAIN.BBOX_NORMALIZE_MEANS`): 4
        numbers, or 4 for every class, as `Roidb.target_statistics` gives them.
      bbox_stds: Targets are then divided by these (`TRAIN.BBOX_NORMALIZE_STDS`).
        0 and 1 are the original's `BBOX_NORMALIZE_TARGETS = False`.
      bbox_inside_weights: 4 weights within the loss
        (`TRAIN.BBOX_INSIDE_WEIGHTS`).
      use_ground_truth: Whether ground truth itself may be drawn, as in the original.
      crowd_threshold: A proposal with more than this share of its area in one crowd
        box is no sample (`crowd_thresh` of its COCO reader); 1 turns it off.

    Raises:
      TypeError, ValueError: A field is not as described.

    Example:
      >>> from jax_roipool.data import SamplingConfig
      >>> config = SamplingConfig(bg_threshold_low=0.0)  # end to end
      >>> config.rois_per_image, config.fg_per_image
      (64, 16)
    """

    batch_rois: int = 128
    images_per_batch: int = 2
    fg_fraction: float = 0.25
    fg_threshold: float = 0.5
    bg_threshold_high: float = 0.5
    bg_threshold_low: float = 0.1
    bbox_reg: bool = True
    bbox_threshold: float = 0.5
    bbox_means: ArrayLike = (0.0, 0.0, 0.0, 0.0)
    bbox_stds: ArrayLike = (0.1, 0.1, 0.2, 0.2)
    bbox_inside_weights: ArrayLike = (1.0, 1.0, 1.0, 1.0)
    use_ground_truth: bool = True
    crowd_threshold: float = 0.7

    def __post_init__(self) -> None:
        for name in ("batch_rois", "images_per_batch"):
            check_int(name, getattr(self, name), 1)
        if self.batch_rois % self.images_per_batch:
            raise ValueError(
                f"batch_rois, {self.batch_rois}, must be a multiple of "
                f"images_per_batch, {self.images_per_batch}"
            )
        for name in ("bbox_reg", "use_ground_truth"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {getattr(self, name)!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                if isinstance(value, bool) or not isinstance(
                    value, int | float | np.floating
                ):
                    raise TypeError(f"{field.name} must be a number, got {value!r}")
                if not 0 <= value <= 1:
                    raise ValueError(f"{field.name} must be from 0 to 1, got {value}")
        # Overlaps compare in float32.
        if np.float32(self.fg_threshold) == 0:
            raise ValueError("fg_threshold must be above 0: 0 is no overlap")
        if self.bg_threshold_low > self.bg_threshold_high:
            raise ValueError(
                f"bg_threshold_low, {self.bg_threshold_low}, must be at most "
                f"bg_threshold_high, {self.bg_threshold_high}"
            )
        if self.bg_threshold_high > self.fg_threshold:
            raise ValueError(
                f"bg_threshold_high, {self.bg_threshold_high}, must be at most "
                f"fg_threshold, {self.fg_threshold}: a RoI is one or the other"
            )
        for name in _FOUR:
            # As tuples, which compare and hash.
            array = checks.array(name, getattr(self, name))
            with np.errstate(over="ignore"):
                finite = array.dtype.kind in "fiu" and np.isfinite(np.float32(array))
            if not np.all(finite):
                raise TypeError(
                    f"{name} must be finite numbers, got {getattr(self, name)!r}"
                )
            per_class = name != "bbox_inside_weights" and array.ndim == 2
            if array.shape[-1:] != (4,) or not (array.ndim == 1 or per_class):
                raise ValueError(
                    f"{name} must have shape [4]"
                    f"{'' if name == 'bbox_inside_weights' else ' or [num_classes, 4]'}"
                    f", got {array.shape}"
                )
            value = array.tolist()
            value = tuple(map(tuple, value)) if array.ndim == 2 else tuple(value)
            object.__setattr__(self, name, value)
        if not (np.asarray(self.bbox_stds, np.float32) > 0).all():
            raise ValueError(f"bbox_stds must be above 0, got {self.bbox_stds}")
        if not (np.asarray(self.bbox_inside_weights) >= 0).all():
            raise ValueError(
                "bbox_inside_weights must be at least 0, got "
                f"{self.bbox_inside_weights}"
            )

    def normalization(self, num_classes: int) -> tuple[Array, Array]:
        """Means and stds as float32 [4] or [num_classes, 4].

        Raises:
          ValueError: They are of another number of classes.
        """
        found = []
        for name in ("bbox_means", "bbox_stds"):
            array = np.asarray(getattr(self, name), np.float32)
            if array.ndim == 2 and len(array) != num_classes:
                raise ValueError(
                    f"{name} must have one row per class, {num_classes}, got "
                    f"{len(array)}"
                )
            found.append(array)
        return found[0], found[1]

    @property
    def rois_per_image(self) -> int:
        """RoIs of each image, R."""
        return self.batch_rois // self.images_per_batch

    @property
    def fg_per_image(self) -> int:
        """How many of them are foreground at most."""
        return round(self.fg_fraction * self.rois_per_image)


class Candidates(NamedTuple):
    """What may be drawn from an image, by `candidates`.

    Attributes:
      rois: float32 [m, 4]: ground truth that may be a sample, then proposals.
      overlaps: float32 [m]: greatest overlap with such ground truth; 1 for ground
        truth itself.
      matches: int32 [m]: which of the record's boxes that is, itself for ground
        truth, the first among equals for a proposal, -1 for none.
      allowed: bool [m]: false for proposals in a crowd.

    Example:
      >>> from jax_roipool.data import Record, SamplingConfig, candidates
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 0, 9, 9]], [3],
      ...                 proposals=[[0, 0, 9, 4], [50, 0, 59, 9]])
      >>> candidates(record, SamplingConfig()).overlaps
      array([1. , 0.5, 0. ], dtype=float32)
    """

    rois: Array
    overlaps: Array
    matches: Array
    allowed: Array


class Sample(NamedTuple):
    """The RoIs of one image for a training step; R and K are fixed.

    Foreground stands first, then background, then padding. A pytree.

    Attributes:
      rois: float32 [R, 4], pixels of the image; padding is 0.
      labels: int32 [R], the class; 0 for background and padding.
      bbox_targets: float32 [R, 4 * K], normalised deltas in the four places of the
        RoI's class, else 0. `None` without `bbox_reg`, like the weights.
      bbox_inside_weights: float32 [R, 4 * K]: `config.bbox_inside_weights` where
        there is a target, else 0.
      bbox_outside_weights: float32 [R, 4 * K]: 1 where the inside weight is above
        0, else 0.
      valid: bool [R]: false for padding, which has no part in any loss.

    Example:
      >>> from jax_roipool.data import Sample
      >>> Sample._fields[:3]
      ('rois', 'labels', 'bbox_targets')
    """

    rois: Array
    labels: Array
    bbox_targets: Array | None
    bbox_inside_weights: Array | None
    bbox_outside_weights: Array | None
    valid: Array


def _in_crowd(rois: Array, crowd: Array, threshold: float) -> Array:
    """Which RoIs have more than this share of their area in one crowd box."""
    low = np.maximum(rois[:, None, :2], crowd[None, :, :2])
    high = np.minimum(rois[:, None, 2:], crowd[None, :, 2:])
    shared = _boxes.areas(np.concatenate([low, high], axis=-1), inclusive=True)
    share = (
        shared
        / np.maximum(_boxes.areas(rois, inclusive=True), np.float32(1e-30))[:, None]
    )
    return (share > np.float32(threshold)).any(axis=1)


def candidates(record: Record, config: SamplingConfig) -> Candidates:
    """The boxes of an image that may be drawn, and their ground truth.

    Difficult and crowd boxes are neither drawn nor matched.

    Args:
      record: The image; without proposals its ground truth is all there is.
      config: For `use_ground_truth` and `crowd_threshold`.

    Returns:
      The candidates, in the order in which `choose` indexes them.

    Example:
      See `Candidates`:

      >>> from jax_roipool.data import Record, SamplingConfig, candidates
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 0, 9, 9]], [3], crowd=[True])
      >>> candidates(record, SamplingConfig()).rois.shape
      (0, 4)
    """
    checks.instance("record", record, Record)
    checks.instance("config", config, SamplingConfig)
    own = record.trainable if config.use_ground_truth else np.zeros(0, bool)
    matches = np.flatnonzero(own).astype(np.int32)
    rois = truth = record.boxes[matches]
    overlaps = np.ones(len(truth), np.float32)
    if record.proposals is not None:
        rois = np.concatenate([truth, record.proposals])
        overlaps = np.concatenate([overlaps, record.proposal_overlaps])
        matches = np.concatenate([matches, record.proposal_matches])
    allowed = np.ones(len(rois), bool)
    if record.crowd.any():
        crowd, rest = record.boxes[record.crowd], rois[len(truth) :]
        allowed[len(truth) :] = ~_in_crowd(rest, crowd, config.crowd_threshold)
    return Candidates(rois, overlaps, matches, allowed)


def _foreground_background(
    found: Candidates, config: SamplingConfig
) -> tuple[Array, Array]:
    overlaps = found.overlaps
    fg = overlaps >= np.float32(config.fg_threshold)
    bg = overlaps < np.float32(config.bg_threshold_high)
    bg &= overlaps >= np.float32(config.bg_threshold_low)
    return np.flatnonzero(fg & found.allowed), np.flatnonzero(bg & found.allowed)


def has_samples(record: Record, config: SamplingConfig | None = None) -> bool:
    """Whether an image has any RoI to train on: the predicate of `filter_roidb`.

    Args:
      record: The image.
      config: Defaults to `SamplingConfig()`.

    Returns:
      Whether there is a foreground or a background candidate.

    Example:
      >>> from jax_roipool.data import Record, Roidb, has_samples
      >>> records = [Record("7", "7.jpg", 60, 100, [[0, 0, 9, 9]], [1]),
      ...            Record("8", "8.jpg", 60, 100, [], [])]
      >>> roidb = Roidb.from_records(records, ["cat"]).filter(has_samples)
      >>> len(roidb), str(roidb.report)
      (1, '1 × record filtered out (image 8)')
    """
    config = SamplingConfig() if config is None else config
    fg, bg = _foreground_background(candidates(record, config), config)
    return bool(len(fg) or len(bg))


def choose(
    found: Candidates, rng: np.random.Generator, config: SamplingConfig
) -> tuple[Array, Array]:
    """Draws foreground and background, without replacement.

    At most `fg_per_image` are foreground; background fills up to
    `rois_per_image`. Where background runs short, foreground does not stand in.

    Args:
      found: The candidates.
      rng: Draws one permutation of the foreground, then one of the background, and
        takes the first of each.
      config: For the numbers.

    Returns:
      Indices of candidates, int64: foreground, background, each in the order
      drawn.

    Raises:
      TypeError: `rng` is no `numpy.random.Generator`.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data import Record, SamplingConfig, candidates, choose
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 0, 9, 9]], [3],
      ...                 proposals=[[0, 0, 9, 4], [0, 0, 9, 3]])
      >>> config = SamplingConfig()
      >>> fg, bg = choose(candidates(record, config), np.random.default_rng(0), config)
      >>> sorted(fg.tolist()), bg
      ([0, 1], array([2]))
    """
    checks.instance("found", found, Candidates)
    checks.instance("config", config, SamplingConfig)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {type(rng).__name__}; "
            "np.random.default_rng(seed) makes one"
        )
    fg, bg = _foreground_background(found, config)
    fg = fg[rng.permutation(len(fg))[: config.fg_per_image]]
    bg = bg[rng.permutation(len(bg))[: config.rois_per_image - len(fg)]]
    return fg, bg


def bbox_targets(
    rois: ArrayLike,
    targets: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    config: SamplingConfig,
) -> tuple[Array, Array, Array]:
    """Class-specific box targets and their weights.

    Args:
      rois: [R, 4].
      targets: [R, 4], the ground truth of each.
      labels: int [R]: the class of each; 0 means no target.
      num_classes: With the background, K.
      config: For means, stds and inside weights.

    Returns:
      `(targets, inside weights, outside weights)`, float32 [R, 4 * K]; zeros
      but in the places `4 * label` to `4 * label + 3` of RoIs with a target.

    Raises:
      TypeError, ValueError: A label is no class, there is not one RoI and target
        for each, or means or stds are of another number of classes.

    Example:
      >>> from jax_roipool.data import SamplingConfig, bbox_targets
      >>> targets, inside, outside = bbox_targets(
      ...     [[0, 0, 9, 9]], [[1, 0, 10, 9]], [1], 2, SamplingConfig())
      >>> targets
      array([[0., 0., 0., 0., 1., 0., 0., 0.]], dtype=float32)
      >>> inside
      array([[0., 0., 0., 0., 1., 1., 1., 1.]], dtype=float32)
    """
    checks.instance("config", config, SamplingConfig)
    rois, targets = checks.array("rois", rois), checks.array("targets", targets)
    labels = checks.array("labels", labels)
    num_classes = check_int("num_classes", num_classes, 1)
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape [R], got {labels.shape}")
    if labels.dtype.kind not in "iu" and len(labels):
        raise TypeError(f"labels must be ints, got dtype {labels.dtype}")
    labels = labels.astype(np.int64)
    for name, array in (("rois", rois), ("targets", targets)):
        if array.shape != (len(labels), 4):
            raise ValueError(
                f"{name} must have shape ({len(labels)}, 4), one row per label, got "
                f"{array.shape}"
            )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must be from 0 to num_classes - 1 = {num_classes - 1}, got "
            f"{labels.min()} to {labels.max()}"
        )
    some = np.flatnonzero(labels)
    return _spread(
        some, rois[some], targets[some], labels[some], len(labels), num_classes, config
    )


def _spread(
    rows: Array,
    rois: Array,
    targets: Array,
    labels: Array,
    count: int,
    num_classes: int,
    config: SamplingConfig,
) -> tuple[Array, Array, Array]:
    """What `bbox_targets` returns, of those `rows` of `count` that have a target."""
    means, stds = (
        array[labels] if array.ndim == 2 else array
        for array in config.normalization(num_classes)
    )
    weights = np.asarray(config.bbox_inside_weights, np.float32)
    result = np.zeros((3, count, num_classes, 4), np.float32)
    result[0, rows, labels] = _boxes.encode(
        rois, targets, means=means, stds=stds, inclusive=True
    )
    result[1, rows, labels] = weights
    result[2, rows, labels] = weights > 0
    blobs = result.reshape(3, count, 4 * num_classes)
    return blobs[0], blobs[1], blobs[2]


def sample(
    record: Record,
    rng: np.random.Generator,
    config: SamplingConfig,
    num_classes: int,
) -> Sample:
    """Draws the RoIs of one image for a training step.

    Fast R-CNN (Girshick 2015, section 2.3): a quarter foreground, of overlap 0.5
    and above, the rest background, of overlap from 0.1 to below 0.5. The label of a
    foreground RoI is the class of the ground truth it overlaps most, the first
    among equals; of ground truth it is its own. Thresholds compare in float32.

    Args:
      record: The image. Difficult and crowd boxes are never samples.
      rng: The only source of chance; see `choose`.
      config: The numbers.
      num_classes: With the background, K.

    Returns:
      `config.rois_per_image` RoIs, whatever the image has: a shortage is padded
      with RoIs of weight 0 and `valid` false.

    Raises:
      TypeError, ValueError: `rng` is no generator, or `num_classes` does not fit
        the record or the configuration.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data import Record, SamplingConfig, sample
      >>> record = Record("7", "7.jpg", 60, 100, [[0, 0, 9, 9]], [3],
      ...                 proposals=[[0, 0, 9, 3], [50, 0, 59, 9]])
      >>> config = SamplingConfig(batch_rois=4, images_per_batch=1)
      >>> got = sample(record, np.random.default_rng(0), config, num_classes=21)
      >>> got.labels, got.valid
      (array([3, 0, 0, 0], dtype=int32), array([ True,  True, False, False]))
      >>> got.rois[:2]
      array([[0., 0., 9., 9.],
             [0., 0., 9., 3.]], dtype=float32)
    """
    checks.instance("record", record, Record)
    record.check_classes(num_classes)
    found = candidates(record, config)
    fg, bg = choose(found, rng, config)
    chosen = np.concatenate([fg, bg])
    count = config.rois_per_image
    rois = np.zeros((count, 4), np.float32)
    rois[: len(chosen)] = found.rois[chosen]
    labels = np.zeros(count, np.int32)
    matches = found.matches[fg]
    labels[: len(fg)] = record.classes[matches]
    valid = np.arange(count) < len(chosen)
    if not config.bbox_reg:
        return Sample(rois, labels, None, None, None, valid)
    near = np.flatnonzero(found.overlaps[fg] >= np.float32(config.bbox_threshold))
    targets = record.boxes[matches[near]]
    blobs = _spread(near, rois[near], targets, labels[near], count, num_classes, config)
    return Sample(rois, labels, *blobs, valid)
