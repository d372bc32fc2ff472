"""What a detector is and how it is trained: two frozen, hashable records.

A `ModelConfig` decides the parameters and what they mean, so it is stored in every
checkpoint; a `TrainConfig` decides a training run. Behind the fields stand
py-faster-rcnn's keys.
"""

import dataclasses
from typing import Any, Self

from jax_roipool.data import ImageConfig, SamplingConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A detector.

    Attributes:
      classes: Names, the background first.
      backbone: "small" (stride 8, GroupNorm) or "vgg16" (stride 16).
      frozen_blocks: Of VGG16's five; they keep the weights that they are given.
      rpn: Whether it proposes regions itself (Faster R-CNN) or is given proposals
        (Fast R-CNN).
      short_side: To which images are resized, in pixels (`TRAIN.SCALES`).
      long_side: At most, in pixels (`TRAIN.MAX_SIZE`).
      pixel_means: Subtracted from pixels, RGB (`PIXEL_MEANS`).
      pixel_stds: What is left is divided by these.
      anchor_scales: Sides of square anchors, in strides (`ANCHOR_SCALES`).
      anchor_ratios: Height over width.
      pool_size: Bins of a RoI, both ways.
      hidden: Units of the head's hidden layers.
      proposal_threshold: IoU above which the worse of two proposals goes
        (`RPN_NMS_THRESH`).
      min_size: Proposals with a shorter side, in pixels of the original image, go
        (`RPN_MIN_SIZE`).
      train_proposals: Their number before and after suppression
        (`TRAIN.RPN_PRE_NMS_TOP_N`, `TRAIN.RPN_POST_NMS_TOP_N`).
      test_proposals: The same in detection.
      bbox_stds: Targets of the head's boxes are divided by these.
      nms_threshold: Of the detections of one class (`TEST.NMS`).
      score_threshold: Detections below are dropped.
      max_detections: Of an image, of all classes.
    """

    classes: tuple[str, ...]
    backbone: str = "small"
    frozen_blocks: int = 0
    rpn: bool = True
    short_side: int = 128
    long_side: int = 160
    pixel_means: tuple[float, float, float] = (122.7717, 115.9465, 102.9801)
    pixel_stds: tuple[float, float, float] = (64.0, 64.0, 64.0)
    anchor_scales: tuple[float, ...] = (2.25, 3.5, 5.5)
    anchor_ratios: tuple[float, ...] = (1.4, 3.0)
    pool_size: int = 6
    hidden: int = 256
    proposal_threshold: float = 0.7
    min_size: float = 4.0
    train_proposals: tuple[int, int] = (256, 96)
    test_proposals: tuple[int, int] = (256, 64)
    bbox_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    nms_threshold: float = 0.3
    score_threshold: float = 0.02
    max_detections: int = 50

    @property
    def stride(self) -> int:
        """Pixels per cell of the map that proposals are made of."""
        return {"small": 8, "vgg16": 16}[self.backbone]

    @property
    def roi_stride(self) -> int:
        """Pixels per cell of the map that RoIs are pooled from."""
        return {"small": 4, "vgg16": 16}[self.backbone]

    @property
    def images(self) -> ImageConfig:
        """How the data layer prepares images for this detector."""
        short, long = (
            -(-side // 16) * 16 for side in (self.short_side, self.long_side)
        )
        return ImageConfig(
            scales=(self.short_side,),
            max_size=self.long_side,
            means=self.pixel_means,
            buckets=((short, long), (long, short)),
            transport="uint8",
        )

    def to_json(self) -> dict[str, Any]:
        """As plain lists, strings and numbers."""
        return _plain(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{k: _tuples(v) for k, v in fields.items()})


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      steps: How many.
      images_per_batch: Images of a step (`TRAIN.IMS_PER_BATCH`).
      seed: Decides all that is random.
      optimizer: "adamw", or "sgd" with momentum 0.9.
      learning_rate: The greatest; reached after `warmup` steps.
      schedule: "cosine" falls to 0; "steps" to a tenth after 5/7 of the steps, as
        py-faster-rcnn's 70000 do after 50000.
      warmup: Steps of rising learning rate.
      weight_decay: Of kernels.
      clip_norm: Gradients of a greater norm are made that long.
      rpn_samples: Anchors of an image in the loss (`TRAIN.RPN_BATCHSIZE`, 256
        there, for images with ten times as many anchors).
      rpn_fg_fraction: At most this share is foreground (`TRAIN.RPN_FG_FRACTION`).
      rpn_fg_threshold: Anchors with at least this IoU are
        (`TRAIN.RPN_POSITIVE_OVERLAP`).
      rpn_bg_threshold: Those below are background (`TRAIN.RPN_NEGATIVE_OVERLAP`).
      rois_per_image: In the head's loss (`TRAIN.BATCH_SIZE`, 128 there, for images
        with many times as many proposals).
      fg_fraction: At most this share is foreground (`TRAIN.FG_FRACTION`).
      flips: Whether mirrored images are added (`TRAIN.USE_FLIPPED`).
    """

    steps: int = 3000
    images_per_batch: int = 4
    seed: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup: int = 100
    weight_decay: float = 0.02
    clip_norm: float = 10.0
    rpn_samples: int = 64
    rpn_fg_fraction: float = 0.5
    rpn_fg_threshold: float = 0.7
    rpn_bg_threshold: float = 0.3
    rois_per_image: int = 64
    fg_fraction: float = 0.25
    flips: bool = True

    def sampling(self, model: ModelConfig) -> SamplingConfig:
        """How RoIs become samples, in the step or in the data layer."""
        return SamplingConfig(
            batch_rois=self.rois_per_image * self.images_per_batch,
            images_per_batch=self.images_per_batch,
            fg_fraction=self.fg_fraction,
            bg_threshold_low=0.0,
            bbox_stds=model.bbox_stds,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain lists, strings and numbers."""
        return _plain(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{k: _tuples(v) for k, v in fields.items()})


def small(classes: tuple[str, ...], **changes: Any) -> ModelConfig:
    """The detector that a CPU trains in minutes."""
    return ModelConfig(classes, **changes)


def vgg16(classes: tuple[str, ...], **changes: Any) -> ModelConfig:
    """py-faster-rcnn's VGG16, for weights in torchvision's layout.

    It keeps the first two blocks of the weights; `frozen_blocks=0` is for random ones.
    """
    return ModelConfig(
        classes,
        **{
            "backbone": "vgg16",
            "frozen_blocks": 2,
            "short_side": 600,
            "long_side": 1000,
            "pixel_means": (123.675, 116.28, 103.53),
            "pixel_stds": (58.395, 57.12, 57.375),
            "anchor_scales": (8.0, 16.0, 32.0),
            "anchor_ratios": (0.5, 1.0, 2.0),
            "pool_size": 7,
            "hidden": 4096,
            "min_size": 16.0,
            "train_proposals": (12000, 2000),
            "test_proposals": (6000, 300),
            "score_threshold": 0.05,
            "max_detections": 100,
            **changes,
        },
    )


def training(preset: str, **changes: Any) -> TrainConfig:
    """How the detector of a preset is trained."""
    if preset == "small":
        return TrainConfig(**changes)
    return TrainConfig(
        **{
            "steps": 70000,
            # Its solver adds up the gradients of two images (`iter_size`).
            "images_per_batch": 2,
            "optimizer": "sgd",
            "learning_rate": 1e-3,
            "schedule": "steps",
            "warmup": 500,
            "weight_decay": 5e-4,
            "rpn_samples": 256,
            "rois_per_image": 128,
            **changes,
        }
    )


def _plain(config: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
