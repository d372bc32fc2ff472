"""The four losses of Faster R-CNN."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from examples.faster_rcnn import targets
from examples.faster_rcnn.config import ModelConfig, TrainConfig
from examples.faster_rcnn.model import Detector
from jax_roipool.data import Minibatch
from jax_roipool.data.images import to_features

Metrics = dict[str, jax.Array]


def smooth_l1(difference: jax.Array, sigma: float) -> jax.Array:
    """`0.5 (sigma x)^2` where `|x| < 1 / sigma^2`, else `|x| - 0.5 / sigma^2`."""
    x = jnp.abs(difference)
    square = sigma * sigma
    return jnp.where(x < 1 / square, 0.5 * square * x * x, x - 0.5 / square)


def proposal_losses(
    logits: jax.Array, deltas: jax.Array, wanted: targets.AnchorTargets
) -> tuple[jax.Array, jax.Array]:
    """Of each image [N]: objectness and boxes, both over the sampled anchors."""
    sampled = wanted.labels >= 0
    count = jnp.maximum(sampled.sum(axis=-1), 1)
    logits = jnp.take_along_axis(logits, wanted.index, axis=1)
    deltas = jnp.take_along_axis(deltas, wanted.index[..., None], axis=1)
    entropy = optax.sigmoid_binary_cross_entropy(logits, wanted.labels == 1)
    distance = smooth_l1(deltas - wanted.deltas, sigma=3.0).sum(axis=-1)
    return (
        jnp.where(sampled, entropy, 0).sum(axis=-1) / count,
        jnp.where(wanted.labels == 1, distance, 0).sum(axis=-1) / count,
    )


def head_losses(
    logits: jax.Array, deltas: jax.Array, samples: Any
) -> tuple[jax.Array, jax.Array]:
    """Of each image [N]: classes and boxes, both over its RoIs."""
    count = jnp.maximum(samples.valid.sum(axis=-1), 1)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, samples.labels)
    distance = samples.bbox_outside_weights * smooth_l1(
        samples.bbox_inside_weights * (deltas - samples.bbox_targets), sigma=1.0
    )
    return (
        jnp.where(samples.valid, entropy, 0).sum(axis=-1) / count,
        jnp.where(samples.valid, distance.sum(axis=-1), 0).sum(axis=-1) / count,
    )


def loss(
    model: Detector,
    batch: Minibatch,
    key: jax.Array,
    config: ModelConfig,
    training: TrainConfig,
) -> tuple[jax.Array, Metrics]:
    """The sum of the losses, the mean over the images that are no padding."""
    images = to_features(batch.data, batch.im_info, config.images)
    coarse, features = model.features(images)
    dropout, key = jax.random.split(key)
    # A key for each image: the same however many devices share them.
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(
        jnp.arange(len(images))
    )
    of_images: Metrics = {}
    if config.rpn:
        gt_boxes, gt_classes = batch.gt_boxes[..., :4], batch.gt_boxes[..., 4]
        logits, deltas = model.proposer(coarse)
        anchors = jnp.asarray(model.anchors(coarse))

        def of_image(keys, logits, deltas, boxes, classes, valid, info):  # type: ignore[no-untyped-def]
            wanted = targets.anchor_targets(
                keys[0], anchors, boxes, valid, info, training
            )
            proposed = targets.proposals(
                logits, deltas, anchors, info, config, config.train_proposals
            )
            samples = targets.sample_rois(
                keys[1],
                *proposed,
                boxes,
                classes.astype(jnp.int32),
                valid,
                len(config.classes),
                training.sampling(config),
            )
            return wanted, samples

        wanted, samples = jax.lax.stop_gradient(
            jax.vmap(of_image)(
                keys,
                logits,
                deltas,
                gt_boxes,
                gt_classes,
                batch.gt_valid,
                batch.im_info,
            )
        )
        of_images["rpn_class"], of_images["rpn_box"] = proposal_losses(
            logits, deltas, wanted
        )
    else:
        samples = batch
    pooled = model.pool(features, samples.rois, valid=samples.valid)
    of_images["class"], of_images["box"] = head_losses(
        *model.classify(pooled, dropout), samples
    )
    weight = batch.image_weights / jnp.maximum(batch.image_weights.sum(), 1)
    means = {name: (values * weight).sum() for name, values in of_images.items()}
    total = sum(means.values())
    return total, {"loss": total, **means}
