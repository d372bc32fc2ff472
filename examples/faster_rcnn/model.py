"""The detector: a backbone, a region proposal network, a head over pooled RoIs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.faster_rcnn.anchors import anchors, base_anchors
from examples.faster_rcnn.config import ModelConfig
from jax_roipool.nnx import RoIPool

small_normal = nnx.initializers.normal


class ConvNorm(nnx.Module):
    """Convolution, GroupNorm, ReLU."""

    def __init__(
        self, width_in: int, width: int, size: int, strides: int, rngs: nnx.Rngs
    ) -> None:
        self.conv = nnx.Conv(
            width_in, width, (size, size), strides, use_bias=False, rngs=rngs
        )
        self.norm = nnx.GroupNorm(width, num_groups=8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(x)))


class SmallBackbone(nnx.Module):
    """Five convolutions, and two maps of them.

    Proposals read the coarse map, of stride 8. RoIs are pooled from the fine one,
    of stride 4, to which the coarse one is added as in a feature pyramid (Lin et
    al. 2017): of the smallest objects it has four cells a side and not two.

    The first layer is linear in patches of 4 x 4 pixels: a convolution of 3 channels
    at full size would take as long as all the others together.
    """

    width, proposer_width = 64, 96

    def __init__(self, rngs: nnx.Rngs) -> None:
        layer = partial(ConvNorm, rngs=rngs)
        self.stem = layer(48, 64, 1, 1)  # stride 4
        self.same1 = layer(64, 64, 3, 1)
        self.down = layer(64, 96, 3, 2)  # stride 8
        self.same2 = layer(96, 96, 3, 1)
        self.same3 = layer(96, 96, 3, 1)
        self.lateral = nnx.Linear(96, 64, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, rows, columns, colors = x.shape
        x = x.reshape(images, rows // 4, 4, columns // 4, 4, colors)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(images, rows // 4, columns // 4, -1)
        x = self.stem(x)
        fine = x + self.same1(x)
        x = self.down(fine)
        x = x + self.same2(x)
        coarse = x + self.same3(x)
        above = self.lateral(coarse).repeat(2, axis=1).repeat(2, axis=2)
        return coarse, nnx.relu(fine + above)


class SmallHead(nnx.Module):
    """Two hidden layers over the bins of a RoI, normalised to learn fast."""

    def __init__(self, bins: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(bins, hidden, use_bias=False, rngs=rngs)
        self.norm1 = nnx.LayerNorm(hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, hidden, use_bias=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(hidden, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: jax.Array | None) -> jax.Array:
        del dropout
        x = nnx.relu(self.norm1(self.fc1(x)))
        return nnx.relu(self.norm2(self.fc2(x)))


class RegionProposals(nnx.Module):
    """For each anchor a logit (object or not) and four deltas."""

    def __init__(self, width: int, count: int, rngs: nnx.Rngs) -> None:
        init = small_normal(0.01)
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.score = nnx.Conv(width, count, (1, 1), kernel_init=init, rngs=rngs)
        self.deltas = nnx.Conv(width, 4 * count, (1, 1), kernel_init=init, rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[N, h, w, C]` to logits `[N, A]` and deltas `[N, A, 4]`."""
        x = nnx.relu(self.conv(features))
        images = len(x)
        return (
            self.score(x).reshape(images, -1),
            self.deltas(x).reshape(images, -1, 4),
        )


class Detector(nnx.Module):
    """Faster R-CNN, or without a `proposer` Fast R-CNN.

    Its parts are called one by one, because training and detection do different
    things between them.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        if config.backbone == "vgg16":
            from examples.faster_rcnn.vgg16 import VGG16, VGG16Head

            self.backbone = VGG16(rngs, frozen_blocks=config.frozen_blocks)
            head = VGG16Head
        else:
            self.backbone, head = SmallBackbone(rngs=rngs), SmallHead
        self.base = base_anchors(
            config.stride, config.anchor_scales, config.anchor_ratios
        ).tolist()
        if config.rpn:
            self.proposer = RegionProposals(
                self.backbone.proposer_width, len(self.base), rngs
            )
        self.pool = RoIPool(config.pool_size, spatial_scale=1 / config.roi_stride)
        bins = self.backbone.width * config.pool_size**2
        self.head = head(bins, config.hidden, rngs=rngs)
        count = len(config.classes)
        self.scores = nnx.Linear(
            config.hidden, count, kernel_init=small_normal(0.01), rngs=rngs
        )
        self.boxes = nnx.Linear(
            config.hidden, 4 * count, kernel_init=small_normal(0.001), rngs=rngs
        )

    def features(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The maps that proposals are made of and RoIs pooled from.

        Args:
          images: `[N, H, W, 3]`, means subtracted.

        Returns:
          Two maps `[N, h, w, C]`; VGG16 has one for both.
        """
        return self.backbone(images / jnp.array(self.config.pixel_stds))

    def anchors(self, features: jax.Array) -> np.ndarray:
        """Of the proposer's maps: float32 `[A, 4]`."""
        return anchors(*features.shape[1:3], self.config.stride, np.float32(self.base))

    def classify(
        self, pooled: jax.Array, dropout: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Pooled RoIs to logits `[N, R, K]` and deltas `[N, R, 4 * K]`.

        Args:
          pooled: `[N, R, P, P, C]`, from `self.pool`.
          dropout: A key in training, `None` in detection.
        """
        x = self.head(pooled.reshape(*pooled.shape[:2], -1), dropout)
        return self.scores(x), self.boxes(x)
