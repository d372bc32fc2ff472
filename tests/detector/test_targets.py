"""Anchors, targets and samples of the detector example, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from examples.faster_rcnn import targets
from examples.faster_rcnn.anchors import anchors, base_anchors
from examples.faster_rcnn.config import ModelConfig, TrainConfig
from jax_roipool.boxes import decode
from jax_roipool.data import SamplingConfig
from tests.oracle import boxes as boxes_oracle

# One worker of pytest-xdist: the tests share compiled programs.
pytestmark = pytest.mark.xdist_group("test_detector_targets.py")

# generate_anchors of py-faster-rcnn, as its source prints them, whose pixels count
# from 1 there.
PUBLISHED = [
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]


def test_anchors_are_the_published_ones():
    got = base_anchors(16, (8, 16, 32), (0.5, 1, 2))
    np.testing.assert_array_equal(got, np.array(PUBLISHED) - 1)


def test_anchors_of_a_map_go_row_by_row():
    base = base_anchors(16, (8,), (1, 2))
    got = anchors(2, 3, 16, base)
    assert got.shape == (12, 4)
    np.testing.assert_array_equal(got[8], base[0] + [16, 16, 16, 16])
    np.testing.assert_array_equal(got[5], base[1] + [32, 0, 32, 0])


# --- Targets of anchors ------------------------------------------------------

ANCHORS = anchors(8, 10, 8, base_anchors(8, (2, 3, 5), (1, 2)))
CONFIG = TrainConfig(rpn_samples=24)


def random_truth(seed):
    """Up to 5 boxes in an image of 64 x 72 pixels, and which are no padding."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 50, (5, 2))
    size = rng.integers(6, 40, (5, 2))
    high = np.minimum(low + size, [71, 63])
    valid = np.arange(5) < rng.integers(0, 6)
    return np.hstack([low, high]).astype(np.float32), valid


def rules(boxes, valid, height, width, config):
    """Which anchors may be foreground, and which background."""
    inside = [
        a[0] >= 0 and a[1] >= 0 and a[2] < width and a[3] < height for a in ANCHORS
    ]
    truth = [b for b, v in zip(boxes, valid, strict=True) if v]
    table = boxes_oracle.all_pairs(boxes_oracle.iou, ANCHORS, truth, inclusive=True)
    fg, bg = set(), set()
    for i in np.flatnonzero(inside):
        best = max(table[i], default=0)
        if best >= np.float32(config.rpn_fg_threshold):
            fg.add(int(i))
        elif best < np.float32(config.rpn_bg_threshold):
            bg.add(int(i))
    for j in range(len(truth)):
        most = max((table[i, j] for i in np.flatnonzero(inside)), default=0)
        if most > 0:
            fg |= {int(i) for i in np.flatnonzero(inside) if table[i, j] == most}
    return fg, bg - fg, table


@jax.jit
def compiled_targets(key, boxes, valid, info):
    return targets.anchor_targets(key, jnp.asarray(ANCHORS), boxes, valid, info, CONFIG)


@pytest.mark.parametrize("seed", range(12))
def test_anchor_targets(seed):
    boxes, valid = random_truth(seed)
    fg, bg, table = rules(boxes, valid, 64, 72, CONFIG)
    index, labels, deltas = (
        np.asarray(x)
        for x in compiled_targets(
            jax.random.key(seed), boxes, valid, np.float32([64, 72, 1])
        )
    )
    chosen_fg, chosen_bg = index[labels == 1], index[labels == 0]
    assert set(chosen_fg) <= fg
    assert set(chosen_bg) <= bg
    assert len(set(index[labels >= 0])) == (labels >= 0).sum()
    assert len(chosen_fg) == min(len(fg), 12)
    assert len(chosen_bg) == min(len(bg), 24 - len(chosen_fg))
    if len(chosen_fg):
        back = decode(ANCHORS[chosen_fg], deltas[labels == 1], inclusive=True)
        truth = boxes[valid]
        for i, box in zip(chosen_fg, back, strict=True):
            np.testing.assert_allclose(box, truth[table[i].argmax()], atol=1e-3)


def test_the_draw_is_even_and_repeats():
    boxes, valid = random_truth(3)
    _, bg, _ = rules(boxes, valid, 64, 72, CONFIG)
    counts = dict.fromkeys(bg, 0)
    keys = jax.random.split(jax.random.key(0), 400)
    run = jax.jit(
        jax.vmap(
            lambda key: targets.anchor_targets(
                key,
                jnp.asarray(ANCHORS),
                jnp.asarray(boxes),
                jnp.asarray(valid),
                jnp.float32([64, 72, 1]),
                CONFIG,
            )
        )
    )
    got, again = run(keys), run(keys)
    jax.tree.map(np.testing.assert_array_equal, got, again)
    drawn = np.asarray(got.index)[np.asarray(got.labels) == 0]
    for i in drawn.tolist():
        counts[i] += 1
    mean = len(drawn) / len(bg)
    assert len(bg) > 50
    assert min(counts.values()) > mean - 6 * mean**0.5
    assert max(counts.values()) < mean + 6 * mean**0.5


# --- Proposals ---------------------------------------------------------------


def test_proposals():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=len(ANCHORS)).astype(np.float32)
    deltas = rng.normal(0, 0.2, (len(ANCHORS), 4)).astype(np.float32)
    config = ModelConfig(("__background__", "cat"), min_size=10.0)
    info = jnp.float32([50, 60, 0.9])

    def run(logits, deltas):
        return targets.proposals(
            logits, deltas, jnp.asarray(ANCHORS), info, config, (100, 30)
        )

    got, valid = jax.jit(run)(logits, deltas)
    boxes = np.clip(
        decode(ANCHORS, deltas, inclusive=True), 0, np.float32([59, 49, 59, 49])
    )
    size = boxes[:, 2:] - boxes[:, :2] + 1
    order = [i for i in np.argsort(-logits) if (size[i] >= 9).all()][:100]
    kept = boxes_oracle.nms(boxes[order], logits[order], 0.7, 30, inclusive=True)
    np.testing.assert_allclose(got[: len(kept)], boxes[order][kept], atol=1e-3)
    assert np.asarray(valid).sum() == len(kept) < 30 or len(kept) == 30
    np.testing.assert_array_equal(np.asarray(got)[~np.asarray(valid)], 0)
    gradient = jax.grad(lambda x, d: run(x, d)[0].sum(), argnums=(0, 1))
    for part in gradient(jnp.asarray(logits), jnp.asarray(deltas)):
        np.testing.assert_array_equal(part, 0)


# --- RoIs of the step --------------------------------------------------------

SAMPLING = SamplingConfig(
    batch_rois=16, images_per_batch=1, fg_fraction=0.25, bg_threshold_low=0.0
)


@jax.jit
def compiled_samples(key, proposed, there, boxes, classes, valid):
    return targets.sample_rois(key, proposed, there, boxes, classes, valid, 4, SAMPLING)


@pytest.mark.parametrize("seed", range(12))
def test_samples(seed):
    rng = np.random.default_rng(seed)
    boxes, valid = random_truth(seed)
    classes = rng.integers(1, 4, 5)
    near = boxes[rng.integers(0, 5, 20)] + rng.integers(-4, 5, (20, 4))
    far, _ = random_truth(seed + 100)
    proposed = np.concatenate([near, far]).astype(np.float32)
    there = rng.random(len(proposed)) < (0.1 if seed % 4 == 0 else 0.8)
    got = jax.tree.map(
        np.asarray,
        compiled_samples(jax.random.key(seed), proposed, there, boxes, classes, valid),
    )
    pool = [tuple(b) for b in np.concatenate([proposed[there], boxes[valid]])]
    table = boxes_oracle.all_pairs(
        boxes_oracle.iou, np.array(pool).reshape(-1, 4), boxes[valid], inclusive=True
    )
    best = table.max(axis=1, initial=0)
    fg, bg = int((best >= 0.5).sum()), int((best < 0.5).sum())
    chosen_fg = min(fg, 4)
    assert (got.labels > 0).sum() == chosen_fg
    assert got.valid.sum() == chosen_fg + min(bg, 16 - chosen_fg)
    left = list(pool)
    for i in np.flatnonzero(got.valid):
        left.remove(tuple(got.rois[i]))  # drawn once each
        k = pool.index(tuple(got.rois[i]))
        label, expected = got.labels[i], np.zeros((4, 4), np.float32)
        if best[k] >= 0.5:
            truth = int(table[k].argmax())
            assert label == classes[valid][truth]
            expected[label] = 1
            back = decode(
                got.rois[i],
                got.bbox_targets[i].reshape(4, 4)[label],
                stds=SAMPLING.bbox_stds,
                inclusive=True,
            )
            np.testing.assert_allclose(back, boxes[valid][truth], atol=1e-3)
        else:
            assert label == 0
        np.testing.assert_array_equal(got.bbox_inside_weights[i], expected.ravel())
        np.testing.assert_array_equal(got.bbox_outside_weights[i], expected.ravel())
        zero = got.bbox_targets[i].reshape(4, 4)[expected[:, 0] == 0]
        np.testing.assert_array_equal(zero, 0)
    for name in ("rois", "labels", "bbox_targets", "bbox_outside_weights"):
        np.testing.assert_array_equal(getattr(got, name)[~got.valid], 0)
