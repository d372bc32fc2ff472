"""Detection: images to boxes with classes and scores."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from examples.faster_rcnn import targets
from examples.faster_rcnn.config import ModelConfig
from examples.faster_rcnn.model import Detector
from examples.faster_rcnn.step import merge, structure
from jax_roipool import boxes
from jax_roipool.data import Minibatch, Roidb
from jax_roipool.data.images import to_features


class Found(NamedTuple):
    """Detections of N images, D places each, in order of falling score.

    Attributes:
      boxes: float32 [N, D, 4], pixels of the resized image, corners inclusive,
        clipped to what the original image covers.
      classes: int32 [N, D], from 1.
      scores: float32 [N, D].
      valid: bool [N, D], whether there is one.
    """

    boxes: jax.Array
    classes: jax.Array
    scores: jax.Array
    valid: jax.Array


class Detections(NamedTuple):
    """Of one image: arrays of one length; boxes in pixels of the image itself."""

    boxes: NDArray[np.float32]
    classes: NDArray[np.int32]
    scores: NDArray[np.float32]


def suppressed(
    config: ModelConfig,
    logits: jax.Array,
    deltas: jax.Array,
    rois: jax.Array,
    valid: jax.Array,
    im_info: jax.Array,
) -> Found:
    """The head's answers for one image to detections: suppression in each class."""
    height, width, scale = im_info
    classes = len(config.classes)
    scores = jax.nn.softmax(logits).T[1:]  # [K - 1, R]
    moved = boxes.decode(
        rois,
        deltas,
        stds=jnp.array(config.bbox_stds),
        max_log_size=boxes.MAX_LOG_SIZE,
        inclusive=True,
    )
    # The last pixel of the original image lies here after resizing, and not at
    # `width - 1`.
    moved = boxes.clip(moved, height - scale + 1, width - scale + 1, inclusive=True)
    moved = moved.reshape(-1, classes, 4).transpose(1, 0, 2)[1:]

    def of_class(scores: jax.Array, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
        alive = valid & (scores >= config.score_threshold)
        index, some = boxes.nms(
            moved,
            scores,
            config.nms_threshold,
            config.max_detections,
            valid=alive,
            inclusive=True,
        )
        return moved[index], jnp.where(some, scores[index], -1)

    moved, scores = jax.vmap(of_class)(scores, moved)
    of_each = jnp.repeat(jnp.arange(1, classes), config.max_detections)
    scores, order = jax.lax.top_k(scores.reshape(-1), config.max_detections)
    return Found(moved.reshape(-1, 4)[order], of_each[order], scores, scores > 0)


def propose(
    model: Detector, features: jax.Array, im_info: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Proposals `[N, P, 4]` of the network itself and which there are, `[N, P]`."""
    config = model.config
    anchors = jnp.asarray(model.anchors(features))
    logits, deltas = model.proposer(features)
    return jax.vmap(
        lambda logits, deltas, info: targets.proposals(
            logits, deltas, anchors, info, config, config.test_proposals
        )
    )(logits, deltas, im_info)


def detect(
    model: Detector,
    data: jax.Array,
    im_info: jax.Array,
    given: tuple[jax.Array, jax.Array] | None = None,
    exchange: jax.Array | None = None,
) -> Found:
    """Detections of a batch.

    Args:
      model: The detector.
      data: `[N, H, W, 3]`, uint8.
      im_info: `[N, 3]`.
      given: Proposals `[N, P, 4]` and which there are, for Fast R-CNN.
      exchange: Whether every RoI gets the pooled features of another one of its
        image, bool []. An experiment: what the scores owe to pooling.
    """
    config = model.config
    coarse, features = model.features(to_features(data, im_info, config.images))
    rois, valid = propose(model, coarse, im_info) if given is None else given
    pooled = model.pool(features, rois, valid=valid)
    if exchange is not None:
        keys = jax.random.split(jax.random.key(0), len(pooled))
        other = jax.vmap(exchanged)(keys, pooled, valid)
        pooled = jnp.where(exchange, other, pooled)
    logits, deltas = model.classify(pooled)
    return jax.vmap(partial(suppressed, config))(logits, deltas, rois, valid, im_info)


def exchanged(key: jax.Array, pooled: jax.Array, valid: jax.Array) -> jax.Array:
    """Every valid row gets that of the next in a random circle of them."""
    circle = jnp.lexsort((jax.random.bits(key, valid.shape), ~valid))
    place = jnp.argsort(circle)
    after = circle[(place + 1) % jnp.maximum(valid.sum(), 1)]
    return jnp.where(valid[:, None, None, None], pooled[after], pooled)


class Runner:
    """Detection, compiled once per size of batch."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        graph = structure(config)

        def run(params: Any, data: Any, im_info: Any, given: Any, other: Any) -> Found:
            return detect(merge(graph, params), data, im_info, given, other)

        self.jitted = jax.jit(run)
        self.programs: dict[Any, Any] = {}

    def compile(self, params: Any, batch: Minibatch, given: Any = None) -> Any:
        """The program for batches of this size; `batch` may be shapes alone."""
        operands = (params, batch.data, batch.im_info, given, np.bool_(False))
        key = tuple(x.shape for x in jax.tree.leaves(operands[1:4]))
        if key not in self.programs:
            self.programs[key] = self.jitted.lower(*operands).compile()
        return self.programs[key]

    def __call__(
        self,
        params: Any,
        batches: Iterable[Minibatch],
        roidb: Roidb,
        exchange: bool = False,
    ) -> Iterator[tuple[int, Detections]]:
        """Of each image that is no padding, its index in the roidb.

        Args:
          params: Of the detector.
          batches: In any order.
          roidb: That of the batches; has the proposals, for Fast R-CNN.
          exchange: See `detect`.
        """
        for batch in batches:
            given = None if self.config.rpn else given_proposals(batch, roidb)
            run = self.compile(params, batch, given)
            found = jax.device_get(
                run(params, batch.data, batch.im_info, given, np.bool_(exchange))
            )
            for i, index in enumerate(batch.image_index.tolist()):
                if index >= 0:
                    some, scale = found.valid[i], batch.im_info[i, 2]
                    # Sizes of resized images are rounded.
                    corners = boxes.clip(
                        found.boxes[i, some] / scale,
                        roidb.heights[index],
                        roidb.widths[index],
                        inclusive=True,
                    )
                    yield (
                        index,
                        Detections(
                            corners,
                            found.classes[i, some],
                            found.scores[i, some],
                        ),
                    )


def region_proposals(
    config: ModelConfig, params: Any, batches: Iterable[Minibatch]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The network's own proposals in pixels of each image, by its index."""
    graph = structure(config)

    @jax.jit
    def run(params: Any, data: Any, im_info: Any) -> Any:
        model = merge(graph, params)
        images = to_features(data, im_info, config.images)
        return propose(model, model.features(images)[0], im_info)

    for batch in batches:
        rois, valid = jax.device_get(run(params, batch.data, batch.im_info))
        for i, index in enumerate(batch.image_index.tolist()):
            if index >= 0:
                yield index, rois[i, valid[i]] / batch.im_info[i, 2]


def given_proposals(batch: Minibatch, roidb: Any) -> tuple[Any, Any]:
    """The proposals of a roidb in pixels of a batch, padded to the longest."""
    lengths = np.diff(roidb.columns["proposal_offsets"])
    count = max(int(lengths.max()), 1)
    index = batch.image_index
    rois = np.zeros((len(index), count, 4), np.float32)
    valid = np.zeros((len(index), count), bool)
    for i, k in enumerate(index):
        if k >= 0:
            own = roidb[int(k)].proposals * batch.im_info[i, 2]
            rois[i, : len(own)], valid[i, : len(own)] = own, True
    return rois, valid
