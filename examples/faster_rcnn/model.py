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
    """Six convolutions to stride 8.

    The first sees 4 x 4 pixels as one cell of 48 channels: a convolution of 3
    channels at full size would take as long as all the others together.
    """

    width = 96

    def __init__(self, rngs: nnx.Rngs) -> None:
        layer = partial(ConvNorm, rngs=rngs)
        self.stem = layer(48, 64, 3, 1)  # stride 4
        self.same1 = layer(64, 64, 3, 1)
        self.down = layer(64, 96, 3, 2)  # 8
        self.same2 = layer(96, 96, 3, 1)
        self.same3 = layer(96, 96, 3, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        images, rows, columns, colors = x.shape
        x = x.reshape(images, rows // 4, 4, columns // 4, 4, colors)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(images, rows // 4, columns // 4, -1)
        x = self.stem(x)
        x = self.down(x + self.same1(x))
        x = x + self.same2(x)
        return x + self.same3(x)


class SmallHead(nnx.Module):
    """Two hidden layers over the bins of a RoI."""

    def __init__(self, bins: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(bins, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, hidden, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: jax.Array | None) -> jax.Array:
        del dropout
        return nnx.relu(self.fc2(nnx.relu(self.fc1(x))))


class RegionProposals(nnx.Module):
    """For each anchor a logit (object or not) and four deltas."""

    def __init__(self, width_in: int, width: int, count: int, rngs: nnx.Rngs) -> None:
        init = small_normal(0.01)
        self.conv = nnx.Conv(width_in, width, (3, 3), rngs=rngs)
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

            self.backbone = VGG16(rngs=rngs)
            proposer_width, head = 512, VGG16Head
        else:
            self.backbone = SmallBackbone(rngs=rngs)
            proposer_width, head = SmallBackbone.width, SmallHead
        width = self.backbone.width
        self.base = base_anchors(
            config.stride, config.anchor_scales, config.anchor_ratios
        ).tolist()
        if config.rpn:
            self.proposer = RegionProposals(width, proposer_width, len(self.base), rngs)
        self.pool = RoIPool(config.pool_size, spatial_scale=1 / config.stride)
        self.head = head(width * config.pool_size**2, config.hidden, rngs=rngs)
        count = len(config.classes)
        self.scores = nnx.Linear(
            config.hidden, count, kernel_init=small_normal(0.01), rngs=rngs
        )
        self.boxes = nnx.Linear(
            config.hidden, 4 * count, kernel_init=small_normal(0.001), rngs=rngs
        )

    def features(self, images: jax.Array) -> jax.Array:
        """`[N, H, W, 3]`, means subtracted, to `[N, h, w, C]`."""
        return self.backbone(images / jnp.array(self.config.pixel_stds))

    def anchors(self, features: jax.Array) -> np.ndarray:
        """Of these maps: float32 `[A, 4]`."""
        return anchors(
            *features.shape[1:3], self.config.stride, np.float32(self.base)
        )

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
