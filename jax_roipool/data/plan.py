"""The epoch plan: which images stand together in which step, on which host.

Pure: the plan of an epoch follows from the sizes of the images, the settings, the
seed and the epoch. So every host and every worker makes the same one, and a position
in the stream is two numbers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_roipool.arguments import check_int
from jax_roipool.data.checks import instance
from jax_roipool.data.images import (
    ImageConfig,
    bucket_for,
    default_buckets,
    resized_size,
    scale_for,
)
from jax_roipool.data.roidb import Array, Roidb

_PLAN, _IMAGE = 1, 2  # what a generator is for


class Step(NamedTuple):
    """One step of an epoch; the same on all hosts but for `image_index`.

    Attributes:
      image_index: int64 [N]: places of this host's images in the roidb, -1 for padding.
      target: The short side that images get, one of `ImageConfig.scales`.
      bucket: (height, width) to which all of them are padded.

    Example:
      >>> import numpy as np
      >>> from jax_roipool.data import Step
      >>> Step(np.array([4, -1]), 600, (608, 800)).bucket
      (608, 800)
    """

    image_index: Array
    target: int
    bucket: tuple[int, int]


class EpochPlan:
    """Divides the images of a roidb into steps, epoch by epoch.

    Images that get the same buckets, and are wide or tall alike, stand together: a
    batch is padded no more than its images alone would be, and a jitted step
    compiles at most once per bucket. (py-faster-rcnn pairs wide with wide and tall
    with tall, drops what does not fill a batch, and fails on odd numbers.) The last
    batch of each kind is padded with images of weight zero, so that every image is
    served exactly once and every host takes the same number of steps.

    Args:
      roidb: Whose images; the plan keeps their sizes and the fingerprint.
      images: For scales, greatest size and buckets.
      batch_size: Images per step and host, N.
      hosts: How many processes share each step.
      seed: Of all chance, with the fingerprint; int from 0.
      shuffle: Else images stand in the order of the roidb, as far as their
        grouping lets them.
      aspect_grouping: Else any image may stand beside any other
        (`TRAIN.ASPECT_GROUPING`), and one bucket holds all.

    Attributes:
      steps_per_epoch: Of every epoch.
      buckets: The buckets that occur, the smallest first.
      fingerprint: SHA-256 of the roidb and of all that decides the plan.

    Raises:
      TypeError, ValueError: An argument is not as described, or an image fits no
        bucket; it is named.

    Example:
      >>> from jax_roipool.data import EpochPlan, ImageConfig, Record, Roidb
      >>> records = [Record(str(i), "x.jpg", 60, width, [], [])
      ...            for i, width in enumerate((80, 80, 40))]
      >>> plan = EpochPlan(Roidb.from_records(records, ["cat"]), ImageConfig(),
      ...                  batch_size=2)
      >>> plan.steps_per_epoch
      2
      >>> sorted((sorted(step.image_index.tolist()), step.bucket)
      ...        for step in plan.epoch(0))
      [([-1, 2], (1024, 608)), ([0, 1], (608, 800))]
    """

    def __init__(
        self,
        roidb: Roidb,
        images: ImageConfig,
        *,
        batch_size: int,
        hosts: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        aspect_grouping: bool = True,
    ) -> None:
        instance("roidb", roidb, Roidb)
        instance("images", images, ImageConfig)
        if not len(roidb):
            raise ValueError("roidb must not be empty: no images")
        for name, value in (("shuffle", shuffle), ("aspect_grouping", aspect_grouping)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, got {value!r}")
        self._scales = images.scales
        self._batch_size = check_int("batch_size", batch_size, 1)
        self._hosts = check_int("hosts", hosts, 1)
        self._seed, self._shuffle = check_int("seed", seed, 0), shuffle
        divide = _grouped if aspect_grouping else _together
        # Per group one bucket for each scale, and the group of every record.
        self._buckets, self._group = divide(roidb, images)
        buckets = {bucket for row in self._buckets for bucket in row}
        self.buckets = tuple(sorted(buckets, key=lambda b: (b[0] * b[1], b)))
        per_step = self._batch_size * self._hosts
        sizes = np.bincount(self._group, minlength=len(self._buckets))
        self.steps_per_epoch = int((-(-sizes // per_step)).sum())
        self._content = int(roidb.fingerprint[:32], 16)
        settings: list[Any] = [roidb.fingerprint, self._batch_size, self._hosts]
        settings += [shuffle, aspect_grouping, images.scales, images.max_size]
        settings.append(images.bucket_sizes)
        self.fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def image_rng(self, epoch: int, index: int) -> np.random.Generator:
        """The chance of one image in one epoch, in whatever batch it is served."""
        check_int("epoch", epoch, 0)
        # index is -1 for padding, which draws nothing.
        return np.random.default_rng(
            [_IMAGE, self._seed, epoch, self._content, max(index, 0)]
        )

    def epoch(self, epoch: int, host: int = 0) -> "Epoch":
        """The steps of an epoch, as one host sees them; hosts count from 0."""
        check_int("epoch", epoch, 0)
        check_int("host", host, 0, self._hosts - 1)
        rng = np.random.default_rng([_PLAN, self._seed, epoch, self._content])
        per_step = self._batch_size * self._hosts
        batches, groups = [], []
        # Stable: in the order of the roidb within a group.
        order = np.argsort(self._group, kind="stable")
        ends = np.cumsum(np.bincount(self._group, minlength=len(self._buckets)))
        for k, members in enumerate(np.split(order, ends[:-1])):
            if self._shuffle:
                members = rng.permutation(members)
            rows = -(-len(members) // per_step)
            table = np.full(rows * per_step, -1, np.int64)
            table[: len(members)] = members
            batches.append(table.reshape(rows, self._hosts, self._batch_size))
            groups += [k] * rows
        index, group = np.concatenate(batches), np.array(groups)
        if self._shuffle:
            steps = rng.permutation(len(index))
        else:
            steps = np.argsort(index[:, 0, 0])
        scale = rng.integers(len(self._scales), size=len(index))
        return Epoch(self, index[steps, host], group[steps], scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Epoch:
    """The steps of one epoch: `len`, iteration, and `[i]`."""

    _plan: EpochPlan
    _index: Array
    _group: Array
    _scale: Array

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Step:
        scale = int(self._scale[i])
        bucket = self._plan._buckets[int(self._group[i])][scale]
        return Step(self._index[i], self._plan._scales[scale], bucket)


def size_at(height: int, width: int, target: int, max_size: int) -> tuple[int, int]:
    """The size of an image whose short side gets `target` pixels, where it may."""
    return resized_size(height, width, scale_for(height, width, target, max_size))


def bucket_of_all(
    sizes: Sequence[Sequence[int]], target: int, images: ImageConfig
) -> tuple[int, int]:
    """The smallest bucket that holds images of all these sizes (height, width).

    Raises:
      ValueError: None does.
    """
    resized = [size_at(h, w, target, images.max_size) for h, w in sizes]
    height, width = (max(side) for side in zip(*resized, strict=True))
    choice = images.bucket_sizes
    if images.buckets is None:
        # The default buckets lie or stand; only a square holds both.
        side = max(max(b) for b in default_buckets(images.scales, images.max_size))
        choice = (*choice, (side, side))
    return bucket_for(height, width, choice)


def _distinct(roidb: Roidb) -> tuple[list[list[int]], Array]:
    """The sizes that occur, and which of them each record has."""
    sizes = np.stack([roidb.heights, roidb.widths], axis=1)
    sizes, which = np.unique(sizes, axis=0, return_inverse=True)
    return sizes.tolist(), which.reshape(-1)


_Groups = tuple[list[tuple[tuple[int, int], ...]], Array]


def _grouped(roidb: Roidb, images: ImageConfig) -> _Groups:
    """Images of the same buckets, wide or tall alike."""
    sizes, which = _distinct(roidb)
    keys: dict[Any, int] = {}
    numbers = []
    for i, (height, width) in enumerate(sizes):
        try:
            buckets = tuple(
                bucket_for(
                    *size_at(height, width, target, images.max_size),
                    images.bucket_sizes,
                )
                for target in images.scales
            )
        except ValueError as error:
            record = roidb[int(np.flatnonzero(which == i)[0])]
            raise ValueError(f"record {record.id!r}: {error}") from None
        numbers.append(keys.setdefault((width >= height, buckets), len(keys)))
    return [buckets for _, buckets in keys], np.array(numbers)[which]


def _together(roidb: Roidb, images: ImageConfig) -> _Groups:
    """All images in one group: a bucket that holds the highest and the widest."""
    sizes, which = _distinct(roidb)
    try:
        row = tuple(bucket_of_all(sizes, target, images) for target in images.scales)
    except ValueError as error:
        raise ValueError(
            f"without aspect_grouping one bucket must hold the highest and the "
            f"widest image of the roidb: {error}"
        ) from None
    return [row], np.zeros(len(which), np.int64)
