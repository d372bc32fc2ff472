"""Sampling by Fast R-CNN's rules: the oracle, cases by hand, and shortages."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_roipool import boxes, data
from jax_roipool.data import Record, Roidb, SamplingConfig, sample
from tests.oracle import data as data_oracle

K = 5


def rng(seed=0):
    return np.random.default_rng(seed)


def records(count=12, seed=0, proposals=150):
    fields = data_oracle.random_records(count, seed, K, proposals)
    return [Record(**f) for f in fields]


def record(boxes, classes, proposals=None, **fields):
    return Record("7", "7.jpg", 100, 100, boxes, classes, proposals=proposals, **fields)


def assert_same(got, want):
    names = got._fields
    for name, a, b in zip(names, got, want, strict=True):
        assert a.dtype == (np.float32 if b.dtype == np.float64 else b.dtype), name
        if name == "bbox_targets":  # float64 in the oracle
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)
        else:
            np.testing.assert_array_equal(a, b, name)


def test_the_originals_numbers():
    config = SamplingConfig()
    assert dataclasses.asdict(config) == {
        "batch_rois": 128,
        "images_per_batch": 2,
        "fg_fraction": 0.25,
        "fg_threshold": 0.5,
        "bg_threshold_high": 0.5,
        "bg_threshold_low": 0.1,
        "bbox_reg": True,
        "bbox_threshold": 0.5,
        "bbox_means": (0, 0, 0, 0),
        "bbox_stds": (0.1, 0.1, 0.2, 0.2),
        "bbox_inside_weights": (1, 1, 1, 1),
        "use_ground_truth": True,
        "crowd_threshold": 0.7,
    }
    assert (config.rois_per_image, config.fg_per_image) == (64, 16)
    assert SamplingConfig(images_per_batch=1).fg_per_image == 32
    assert hash(config) == hash(SamplingConfig(bbox_means=np.zeros(4)))
    assert config == SamplingConfig(bbox_means=[0, 0, 0, 0])


@pytest.mark.parametrize("low", [0.0, 0.1])
@pytest.mark.parametrize("images", [1, 2, 16])
def test_sample_is_the_oracles(low, images):
    config = SamplingConfig(images_per_batch=images, bg_threshold_low=low)
    full = 0
    for i, r in enumerate(records() + [r.flip() for r in records(3)]):
        got = sample(r, rng(i), config, K)
        count = 128 // images
        want = data_oracle.sample(r, rng(i), K, count=count, low=low)
        assert_same(got, want)
        full += got.valid.all() and got.labels.any()
    assert full > 0


def test_sample_with_other_numbers():
    config = SamplingConfig(
        batch_rois=50,
        images_per_batch=1,
        fg_fraction=0.5,
        fg_threshold=0.6,
        bg_threshold_high=0.4,
        bg_threshold_low=0.2,
        bbox_means=(0.1, 0, -0.1, 0.2),
        bbox_stds=(1, 2, 3, 4),
        crowd_threshold=0.3,
    )
    for i, r in enumerate(records(seed=1)):
        want = data_oracle.sample(
            r,
            rng(i),
            K,
            count=50,
            fraction=0.5,
            fg=0.6,
            high=0.4,
            low=0.2,
            means=config.bbox_means,
            stds=config.bbox_stds,
            crowd_threshold=0.3,
        )
        assert_same(sample(r, rng(i), config, K), want)


def test_ground_truth_is_matched_with_itself():
    """Also where another class has the same box, as with two labels of one object."""
    box = [0, 0, 9, 9]
    r = Record("7", "7.jpg", 60, 100, [box, box], [1, 2], proposals=[box])
    found = data.candidates(r, SamplingConfig())
    assert found.matches.tolist() == [0, 1, 0]
    assert sorted(sample(r, rng(), SamplingConfig(), K).labels[:3]) == [1, 1, 2]
    r = Record("7", "7.jpg", 60, 100, [box, box], [1, 2], [True, False])
    assert data.candidates(r, SamplingConfig()).matches.tolist() == [1]


def test_properties_of_samples():
    config = SamplingConfig()
    for i, r in enumerate(records(seed=2)):
        got = sample(r, rng(i), config, K)
        assert_same(sample(r, rng(i), config, K), got)  # pure
        assert {a.shape for a in got} == {(64, 4), (64,), (64, 4 * K)}
        fg = got.labels > 0
        assert fg.sum() <= 16
        assert not fg[np.argmin(fg) :].any()  # foreground first
        assert not got.labels[~got.valid].any()
        assert not got.bbox_inside_weights[~fg].any()
        assert not got.bbox_targets[~fg].any()
        assert not got.rois[~got.valid].any()
        overlap, index = r.match(got.rois)
        assert (overlap[fg] >= 0.5).all()
        np.testing.assert_array_equal(got.labels[fg], r.classes[index[fg]])
        bg = got.valid & ~fg
        assert ((overlap[bg] >= np.float32(0.1)) & (overlap[bg] < 0.5)).all()
        # Without replacement: no candidate twice.
        every = data.candidates(r, config).rois
        for roi in np.unique(got.rois[got.valid], axis=0):
            drawn = (got.rois[got.valid] == roi).all(axis=1).sum()
            assert drawn <= (every == roi).all(axis=1).sum()
        # A target decodes to the ground truth.
        deltas = got.bbox_targets.reshape(64, K, 4)[np.arange(64), got.labels]
        back = boxes.decode(got.rois, deltas, stds=config.bbox_stds, inclusive=True)
        np.testing.assert_allclose(back[fg], r.boxes[index[fg]], atol=1e-3)


def test_another_seed_draws_others():
    r = next(r for r in records(seed=3) if r.trainable.sum() > 2)
    config = SamplingConfig(batch_rois=8, images_per_batch=1)
    seen = {sample(r, rng(s), config, K).rois.tobytes() for s in range(10)}
    assert len(seen) > 5


def test_thresholds_by_hand():
    # IoU with the truth, 10 x 10: 0.5, 0.49..., 0.1, below 0.1.
    proposals = [[0, 0, 9, 4], [0, 0, 9, 3], [0, 0, 9, 0], [0, 0, 8, 0], [50, 0, 59, 9]]
    r = record([[0, 0, 9, 9]], [3], proposals)
    config = SamplingConfig(batch_rois=8, images_per_batch=1, fg_fraction=0.5)
    got = sample(r, rng(), config, K)
    assert sorted(got.rois[:2].tolist()) == [[0, 0, 9, 4], [0, 0, 9, 9]]
    assert sorted(got.rois[2:4].tolist()) == [[0, 0, 9, 0], [0, 0, 9, 3]]
    assert got.labels.tolist() == [3, 3, 0, 0, 0, 0, 0, 0]
    assert got.valid.tolist() == [True] * 4 + [False] * 4
    row = got.rois.tolist().index([0, 0, 9, 4])
    want = np.zeros(4 * K)
    want[12:16] = [0, 2.5 / 5 / 0.1, 0, np.log(2) / 0.2]
    np.testing.assert_allclose(got.bbox_targets[row], want, rtol=1e-6)
    assert got.bbox_inside_weights[row].tolist() == [0] * 12 + [1] * 4 + [0] * 4
    end_to_end = dataclasses.replace(config, bg_threshold_low=0.0)
    assert sample(r, rng(), end_to_end, K).valid.sum() == 6
    without = dataclasses.replace(config, use_ground_truth=False)
    got = sample(r, rng(), without, K)
    assert got.rois[0].tolist() == [0, 0, 9, 4]
    assert got.labels.tolist() == [3] + [0] * 7


def test_background_is_not_replaced_by_foreground():
    r = record([[0, 0, 9, 9]], [1], np.tile([[0, 0, 9, 9]], (50, 1)))
    got = sample(r, rng(), SamplingConfig(), K)
    assert got.valid.sum() == (got.labels == 1).sum() == 16


def test_crowds_and_difficult_boxes_are_no_samples():
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 59, 9]]
    # On each box; then 7/10 and 8/10 in the crowd.
    proposals = boxes + [[37, 0, 46, 9], [38, 0, 47, 9]]
    r = record(
        boxes,
        [1, 2, 3],
        proposals,
        difficult=[False, True, False],
        crowd=[False, False, True],
    )
    config = SamplingConfig(bg_threshold_low=0.0)
    got = sample(r, rng(), config, K)
    assert got.labels.tolist() == [1, 1] + [0] * 62
    background = got.rois[2:][got.valid[2:]].tolist()
    assert sorted(background) == [[20, 0, 29, 9], [37, 0, 46, 9]]
    off = dataclasses.replace(config, crowd_threshold=1.0)
    assert sample(r, rng(), off, K).valid.sum() == 6


@pytest.mark.parametrize("proposals", [None, [], [[5, 5, 9, 9]]])
def test_images_with_nothing(proposals):
    r = record([], [], proposals)
    got = sample(r, rng(), SamplingConfig(), K)
    assert got.rois.shape == (64, 4)
    assert not any(a.any() for a in got)
    assert not data.has_samples(r)
    end_to_end = SamplingConfig(bg_threshold_low=0.0)
    assert data.has_samples(r, end_to_end) == bool(proposals)
    assert sample(r, rng(), end_to_end, K).valid.sum() == len(proposals or [])


def test_has_samples_filters():
    some = [record([[0, 0, 9, 9]], [1]), record([], []), records(1, 5)[0]]
    some[2] = dataclasses.replace(some[2], proposals=None, crowd=None, difficult=None)
    roidb = Roidb.from_records(some, list("abcd")).filter(data.has_samples)
    assert len(roidb) == 1 + (len(some[2].boxes) > 0)


def test_without_box_regression():
    r = records(1, 4)[0]
    got = sample(r, rng(), SamplingConfig(bbox_reg=False), K)
    full = sample(r, rng(), SamplingConfig(), K)
    assert got[2:5] == (None, None, None)
    np.testing.assert_array_equal(got.rois, full.rois)
    np.testing.assert_array_equal(got.labels, full.labels)
    assert len(jax.tree.leaves(got)) == 3
    assert len(jax.tree.leaves(full)) == 6


def test_box_threshold_and_inside_weights():
    r = record([[0, 0, 9, 9]], [2], [[0, 0, 9, 5]])
    config = SamplingConfig(bbox_threshold=0.7, bbox_inside_weights=(1, 2, 0, 3))
    got = sample(r, rng(1), config, K)
    assert got.labels[:2].tolist() == [2, 2]
    row = got.rois[:2].tolist().index([0, 0, 9, 5])
    assert not got.bbox_inside_weights[row].any()
    assert not got.bbox_targets[row].any()
    assert got.bbox_inside_weights[1 - row, 8:12].tolist() == [1, 2, 0, 3]
    assert got.bbox_outside_weights[1 - row, 8:12].tolist() == [1, 1, 0, 1]


def test_statistics_of_classes_normalise():
    roidb = Roidb.from_records(records(40, 6), list("abcd"))
    found = roidb.target_statistics()
    config = SamplingConfig(bbox_means=found.means, bbox_stds=found.stds)
    plain = SamplingConfig(bbox_stds=(1, 1, 1, 1))
    for i, r in enumerate(roidb):
        a, b = (sample(r, rng(i), c, K).bbox_targets for c in (config, plain))
        weights = sample(r, rng(i), plain, K).bbox_inside_weights
        want = (b.reshape(-1, K, 4) - found.means) / found.stds
        want = want.reshape(b.shape) * weights
        np.testing.assert_allclose(a, want, rtol=1e-4, atol=1e-5)


BAD = [
    ({"batch_rois": 0}, "batch_rois must be at least 1, got 0"),
    ({"batch_rois": 128.0}, "batch_rois must be an int, got 128.0"),
    ({"images_per_batch": 3}, "batch_rois, 128, must be a multiple of.*3"),
    ({"fg_fraction": 1.5}, "fg_fraction must be from 0 to 1, got 1.5"),
    ({"fg_threshold": "x"}, "fg_threshold must be a number, got 'x'"),
    ({"fg_threshold": 0.0}, "fg_threshold"),
    ({"fg_threshold": 1e-46, "bg_threshold_high": 0.0}, "fg_threshold"),  # float32
    ({"bg_threshold_low": float("nan")}, "bg_threshold_low must be from 0 to 1"),
    ({"bg_threshold_low": 0.6}, "bg_threshold_low, 0.6, must be at most"),
    ({"bg_threshold_high": 0.6}, "bg_threshold_high, 0.6, must be at most fg_"),
    ({"bbox_reg": 1}, "bbox_reg must be a bool, got 1"),
    ({"bbox_means": (0, 0)}, r"bbox_means must have shape \[4\] or .*\(2,\)"),
    ({"bbox_means": "x"}, "bbox_means must be finite numbers, got 'x'"),
    ({"bbox_stds": (1, 1, 0, 1)}, "bbox_stds must be above 0"),
    ({"bbox_stds": (1, 1, 1e-46, 1)}, "bbox_stds must be above 0"),
    ({"bbox_means": (0, 0, 1e39, 0)}, "bbox_means must be finite"),
    ({"bbox_stds": (1, 1, np.inf, 1)}, "bbox_stds must be finite"),
    ({"bbox_inside_weights": np.ones((2, 4))}, r"weights must have shape \[4\], got"),
    ({"bbox_inside_weights": (1, 1, 1, -1)}, "bbox_inside_weights must be at least"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_configs(fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SamplingConfig(**fields)


def test_bad_calls():
    r = record([[0, 0, 9, 9]], [4])
    config = SamplingConfig()
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator.*int"):
        sample(r, 3, config, K)
    with pytest.raises(TypeError, match="RandomState"):
        sample(r, np.random.RandomState(3), config, K)
    with pytest.raises(ValueError, match="above the classes of record '7', 4, got 4"):
        sample(r, rng(), config, 4)
    with pytest.raises(ValueError, match="bbox_stds must have one row per class, 5"):
        sample(r, rng(), SamplingConfig(bbox_stds=np.ones((3, 4))), K)
    with pytest.raises(ValueError, match="labels must be from 0 to num_classes"):
        data.bbox_targets([[0, 0, 9, 9]], [[0, 0, 9, 9]], [5], K, config)
    for rois, targets in ((2, 1), (1, 2)):
        with pytest.raises(ValueError, match=r"must have shape \(1, 4\), one row per"):
            data.bbox_targets(np.ones((rois, 4)), np.ones((targets, 4)), [1], K, config)
    box = [[0, 0, 9, 9]]
    for labels, message in (
        ([[1]], r"labels must have shape \[R\], got \(1, 1\)"),
        (1, r"labels must have shape \[R\], got \(\)"),
        ([1.0], "labels must be ints, got dtype float64"),
        ([True], "labels must be ints, got dtype bool"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            data.bbox_targets(box, box, labels, K, config)
    none = data.bbox_targets(np.zeros((0, 4)), np.zeros((0, 4)), [], K, config)
    assert [a.shape for a in none] == [(0, 4 * K)] * 3
    for call in (
        lambda: data.bbox_targets(box, box, [1], K, None),
        lambda: data.candidates(r, {}),
    ):
        with pytest.raises(TypeError, match="config must be a SamplingConfig, got"):
            call()
