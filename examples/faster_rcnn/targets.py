"""What the losses compare with, and the RoIs of a step: py-faster-rcnn's rules.

All functions are for one image, of static shapes, and meant for `vmap`. Boxes are
(x1, y1, x2, y2) in pixels of the resized image, corners inclusive.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from examples.faster_rcnn.config import ModelConfig, TrainConfig
from jax_roipool import boxes
from jax_roipool.data import SamplingConfig


class AnchorTargets(NamedTuple):
    """The sampled anchors of one image, S.

    Attributes:
      index: int32 [S], which anchors.
      labels: int32 [S]: 1 object, 0 background, -1 no sample.
      deltas: float32 [S, 4], for objects.
    """

    index: jax.Array
    labels: jax.Array
    deltas: jax.Array


class Samples(NamedTuple):
    """RoIs of one image with the data layer's blobs; see `data.Sample`."""

    rois: jax.Array
    labels: jax.Array
    bbox_targets: jax.Array
    bbox_inside_weights: jax.Array
    bbox_outside_weights: jax.Array
    valid: jax.Array


def draw(
    key: jax.Array, fg: jax.Array, bg: jax.Array, count: int, most_fg: int
) -> tuple[jax.Array, jax.Array]:
    """At random at most `most_fg` of `fg`, and of `bg` what is then missing.

    Args:
      key: The only source of chance.
      fg: bool [n].
      bg: bool [n], disjoint from `fg`.
      count: How many in all, S.
      most_fg: How many of them are foreground at most.

    Returns:
      int32 [S], which ones, foreground first; and their labels, int32 [S]: 1
      foreground, 0 background, -1 nothing.
    """
    kind = jnp.where(fg, 0, jnp.where(bg, 1, 2))
    order = jnp.lexsort((jax.random.bits(key, fg.shape), kind))
    fg_found, bg_found = fg.sum(), bg.sum()
    fg_count = jnp.minimum(fg_found, most_fg)
    j = jnp.arange(count)
    of_fg, of_bg = j < fg_count, j - fg_count < bg_found
    place = jnp.where(of_fg, j, fg_found + j - fg_count)
    labels = jnp.where(of_fg, 1, jnp.where(of_bg, 0, -1))
    return order[jnp.minimum(place, len(fg) - 1)], labels


def anchor_targets(
    key: jax.Array,
    anchors: jax.Array,
    gt_boxes: jax.Array,
    gt_valid: jax.Array,
    im_info: jax.Array,
    config: TrainConfig,
) -> AnchorTargets:
    """Which anchors the region proposal network learns from, and what.

    Foreground: IoU of at least 0.7 with a ground truth, or the greatest that a
    ground truth has with any anchor. Background: less than 0.3 with all. Anchors
    across the border of the image are neither.

    Args:
      key: Draws the samples.
      anchors: [A, 4].
      gt_boxes: [G, 4].
      gt_valid: bool [G].
      im_info: [3], (height, width, scale) of the image without padding.
      config: Thresholds and numbers.
    """
    height, width = im_info[0], im_info[1]
    inside = (anchors[:, :2] >= 0).all(axis=1)
    inside &= (anchors[:, 2] < width) & (anchors[:, 3] < height)
    overlaps = boxes.iou(anchors, gt_boxes, inclusive=True)
    overlaps = jnp.where(inside[:, None] & gt_valid, overlaps, 0)
    best = overlaps.max(axis=1)
    best_of_truth = overlaps.max(axis=0)
    closest = ((overlaps == best_of_truth) & (best_of_truth > 0)).any(axis=1)
    fg = inside & (closest | (best >= config.rpn_fg_threshold))
    bg = inside & ~fg & (best < config.rpn_bg_threshold)
    most = int(config.rpn_samples * config.rpn_fg_fraction)
    index, labels = draw(key, fg, bg, config.rpn_samples, most)
    truth = overlaps[index].argmax(axis=1)
    deltas = boxes.encode(anchors[index], gt_boxes[truth], inclusive=True)
    return AnchorTargets(index, labels, deltas)


def proposals(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    im_info: jax.Array,
    config: ModelConfig,
    counts: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """The best boxes of the region proposal network, without gradient.

    Args:
      logits: [A].
      deltas: [A, 4].
      anchors: [A, 4].
      im_info: [3].
      config: Thresholds.
      counts: How many are kept before suppression, and after it at most, P.

    Returns:
      Boxes [P, 4] in order of falling score, and which of them there are, bool [P].
    """
    logits, deltas = jax.lax.stop_gradient((logits, deltas))
    height, width, scale = im_info
    found = boxes.decode(
        anchors, deltas, max_log_size=boxes.MAX_LOG_SIZE, inclusive=True
    )
    found = boxes.clip(found, height, width, inclusive=True)
    large = boxes.remove_small(found, config.min_size * scale, inclusive=True)
    scores = jnp.where(large, logits, -jnp.inf)
    # Sorting stays on the device of its image, which `jax.lax.top_k` does not.
    order = jnp.argsort(scores, descending=True)[: counts[0]]
    found, scores = found[order], scores[order]
    index, valid = boxes.nms(
        found,
        scores,
        config.proposal_threshold,
        counts[1],
        valid=scores > -jnp.inf,
        inclusive=True,
    )
    return jnp.where(valid[:, None], found[index], 0), valid


def sample_rois(
    key: jax.Array,
    proposed: jax.Array,
    valid: jax.Array,
    gt_boxes: jax.Array,
    gt_classes: jax.Array,
    gt_valid: jax.Array,
    num_classes: int,
    config: SamplingConfig,
) -> Samples:
    """The RoIs that the head learns from: `data.sample`, inside the step.

    The ground truth is appended to the proposals. Foreground overlaps ground truth
    by at least 0.5, background by less; at most a quarter is foreground, and it
    never stands in for missing background.

    Args:
      key: Draws the samples.
      proposed: [P, 4].
      valid: bool [P].
      gt_boxes: [G, 4].
      gt_classes: int [G], from 1.
      gt_valid: bool [G].
      num_classes: With the background, K.
      config: Thresholds and numbers; R is `config.rois_per_image`.
    """
    rois = jnp.concatenate([proposed, gt_boxes])
    valid = jnp.concatenate([valid, gt_valid])
    overlaps = jnp.where(gt_valid, boxes.iou(rois, gt_boxes, inclusive=True), 0)
    overlap, truth = overlaps.max(axis=1), overlaps.argmax(axis=1)
    fg = valid & (overlap >= config.fg_threshold)
    bg = valid & (overlap < config.bg_threshold_high)
    bg &= overlap >= config.bg_threshold_low
    count = config.rois_per_image
    chosen, kind = draw(key, fg, bg, count, config.fg_per_image)
    some, truth = kind >= 0, truth[chosen]
    rois = jnp.where(some[:, None], rois[chosen], 0)
    labels = jnp.where(kind == 1, gt_classes[truth], 0).astype(jnp.int32)
    deltas = boxes.encode(
        rois,
        gt_boxes[truth],
        means=config.bbox_means,
        stds=config.bbox_stds,
        inclusive=True,
    )
    # Four numbers per class, of which only those of the RoI's own class count.
    own = jax.nn.one_hot(labels, num_classes) * (labels > 0)[:, None]
    inside = own[:, :, None] * jnp.array(config.bbox_inside_weights)
    return Samples(
        rois,
        labels,
        (own[:, :, None] * deltas[:, None]).reshape(count, -1),
        inside.reshape(count, -1),
        (inside > 0).astype(jnp.float32).reshape(count, -1),
        some,
    )
