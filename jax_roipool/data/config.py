"""The configuration of the data layer."""

import dataclasses
from typing import Literal

from jax_roipool.arguments import check_int
from jax_roipool.data.images import ImageConfig
from jax_roipool.data.sampling import SamplingConfig

BadImages = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """What minibatches are made of; behind each field py-faster-rcnn's key.

    Attributes:
      images: Scales, means, buckets, transport.
      sampling: RoIs and targets; its `images_per_batch` is N of every batch.
      has_rpn: Batches for end-to-end training, with ground truth and no RoIs
        (`TRAIN.HAS_RPN`); else RoIs are sampled from the roidb's proposals.
      aspect_grouping: Images of the same bucket, wide or tall alike, stand together
        (`TRAIN.ASPECT_GROUPING`).
      shuffle: Else the order of the roidb, as far as grouping lets it.
      max_gt_boxes: G, to which ground truth is padded. `None`: the most that an
        image of the roidb has.
      bad_images: What an image that cannot be read does: "error", or "skip" makes
        it an image of weight zero, counted in the layer's report.

    Raises:
      TypeError, ValueError: A field is not as described.

    Example:
      >>> from jax_roipool.data import LayerConfig, SamplingConfig
      >>> LayerConfig(sampling=SamplingConfig(images_per_batch=4)).batch_size
      4
    """

    images: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    has_rpn: bool = False
    aspect_grouping: bool = True
    shuffle: bool = True
    max_gt_boxes: int | None = None
    bad_images: BadImages = "error"

    def __post_init__(self) -> None:
        for name, kind in (("images", ImageConfig), ("sampling", SamplingConfig)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}"
                )
        for name in ("has_rpn", "aspect_grouping", "shuffle"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {getattr(self, name)!r}")
        if self.max_gt_boxes is not None:
            check_int("max_gt_boxes", self.max_gt_boxes, 1)
        if self.bad_images not in ("error", "skip"):
            raise ValueError(
                f'bad_images must be "error" or "skip", got {self.bad_images!r}'
            )

    @property
    def batch_size(self) -> int:
        """Images per batch and host, N."""
        return self.sampling.images_per_batch
