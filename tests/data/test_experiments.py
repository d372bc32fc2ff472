"""Experiments of py-faster-rcnn: every key, the original's values, hostile files."""

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("yaml")

from jax_roipool.data import (
    ImageConfig,
    LayerConfig,
    SamplingConfig,
    read_experiment,
)
from tests.data.sets import roidb_of

# What py-faster-rcnn's lib/fast_rcnn/config.py says where a file does not.
CAFFE = ImageConfig(channels="BGR", means=(102.9801, 115.9465, 122.7717))
PRECOMPUTED = "  BBOX_NORMALIZE_TARGETS_PRECOMPUTED: True\n"


@pytest.fixture
def read(tmp_path):
    def read(text, **more):
        file = tmp_path / "experiment.yml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_experiment(file, **more)

    return read


def test_the_originals_values(read):
    got = read("TRAIN:\n" + PRECOMPUTED)
    assert got.config == LayerConfig(images=CAFFE)
    assert got[1:] == (3, True, False)
    assert read("TRAIN: {HAS_RPN: True}").config == LayerConfig(
        images=CAFFE, has_rpn=True
    )


def test_the_originals_own_files(read):
    """The keys of experiments/cfgs/faster_rcnn_end2end.yml."""
    got = read(
        """
EXP_DIR: faster_rcnn_end2end
TRAIN:
  HAS_RPN: True
  IMS_PER_BATCH: 1
  BBOX_NORMALIZE_TARGETS_PRECOMPUTED: True
  RPN_POSITIVE_OVERLAP: 0.7
  RPN_BATCHSIZE: 256
  PROPOSAL_METHOD: gt
  BG_THRESH_LO: 0.0
TEST:
  HAS_RPN: True
"""
    )
    assert got.config == LayerConfig(
        images=CAFFE,
        sampling=SamplingConfig(images_per_batch=1, bg_threshold_low=0.0),
        has_rpn=True,
    )


def test_every_key(read):
    got = read(
        """
RNG_SEED: 7
PIXEL_MEANS: [[[1, 2.5, 3]]]
TRAIN:
  SCALES: [400, 500]
  MAX_SIZE: 900
  IMS_PER_BATCH: 4
  BATCH_SIZE: 64
  FG_FRACTION: 0.5
  FG_THRESH: 0.6
  BG_THRESH_HI: 0.4
  BG_THRESH_LO: 0.2
  USE_FLIPPED: False
  BBOX_REG: True
  BBOX_THRESH: 0.7
  USE_PREFETCH: True
  BBOX_INSIDE_WEIGHTS: [1, 2, 3, 4]
  BBOX_NORMALIZE_TARGETS: True
  BBOX_NORMALIZE_TARGETS_PRECOMPUTED: True
  BBOX_NORMALIZE_MEANS: [0.1, 0.2, 0.3, 0.4]
  BBOX_NORMALIZE_STDS: [1, 2, 3, 4]
  ASPECT_GROUPING: False
""",
        transport="uint8",
    )
    assert got[1:] == (7, False, True)
    assert got.config == LayerConfig(
        images=ImageConfig(
            scales=(400, 500),
            max_size=900,
            means=(1.0, 2.5, 3.0),
            channels="BGR",
            transport="uint8",
        ),
        sampling=SamplingConfig(
            batch_rois=64,
            images_per_batch=4,
            fg_fraction=0.5,
            fg_threshold=0.6,
            bg_threshold_high=0.4,
            bg_threshold_low=0.2,
            bbox_threshold=0.7,
            bbox_means=(0.1, 0.2, 0.3, 0.4),
            bbox_stds=(1, 2, 3, 4),
            bbox_inside_weights=(1, 2, 3, 4),
        ),
        aspect_grouping=False,
    )


def test_normalisation_of_targets(read):
    plain = read("TRAIN: {BBOX_NORMALIZE_TARGETS: False}").config.sampling
    assert (plain.bbox_means, plain.bbox_stds) == ((0,) * 4, (1,) * 4)
    with pytest.raises(
        ValueError, match=r"PRECOMPUTED is False, so .* pass it as roidb"
    ):
        read("")
    roidb = roidb_of(6)
    got = read("", roidb=roidb).config.sampling
    want = roidb.target_statistics()
    np.testing.assert_array_equal(np.float32(got.bbox_means), want.means)
    np.testing.assert_array_equal(np.float32(got.bbox_stds), want.stds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRAIN: {SCALE: [600]}", "TRAIN.SCALE is no key of py-faster-rcnn"),
        ("TRIAN: {}", "TRIAN is no key of py-faster-rcnn"),
        ("TRAIN: {SCALES: 600}", "TRAIN.SCALES must be a list of whole numbers, got"),
        ("TRAIN: {SCALES: []}", "TRAIN.SCALES must be a list of whole numbers, got"),
        ("TRAIN: {HAS_RPN: 1}", "TRAIN.HAS_RPN must be True or False, got 1"),
        ("TRAIN: {BATCH_SIZE: True}", "TRAIN.BATCH_SIZE must be a whole number"),
        ("TRAIN: {FG_THRESH: high}", "TRAIN.FG_THRESH must be a number, got 'high'"),
        ("TRAIN: {BBOX_INSIDE_WEIGHTS: [1]}", "must be four numbers, got"),
        ("PIXEL_MEANS: [1, 2]", "PIXEL_MEANS must be three numbers, got"),
        ("TRAIN: [1]", "TRAIN must be a table of keys"),
        ("TRAIN: []", "TRAIN must be a table of keys"),
        ("[1, 2]", "the file must be a table of keys"),
        ("TRAIN: {HAS_RPN: True, FG_THRESH: 7}", "fg_threshold must be from 0 to 1"),
        ("TRAIN: {HAS_RPN: True, BATCH_SIZE: 7}", "batch_rois, 7, must be a multiple"),
        ("TRAIN: !!python/object/apply:os.system [echo]", "not YAML: could not determ"),
        ("{", "not YAML: "),
        ("RNG_SEED: 3\nRNG_SEED: 4", "not YAML: the key 'RNG_SEED' stands there twice"),
        (
            "TRAIN: {HAS_RPN: True, 'HAS_RPN': False}",
            "the key 'HAS_RPN' stands there t",
        ),
        ("TRAIN: {}\nTRAIN: {HAS_RPN: True}", "the key 'TRAIN' stands there twice"),
        ("TEST: {NMS: 1, NMS: 2}", "the key 'NMS' stands there twice"),
        (b"\xff\xfe\x00", "not YAML: "),
        ("[" * 20_000, "not YAML: "),
    ],
)
def test_bad_files(read, text, message):
    with pytest.raises(ValueError, match=rf"experiment.yml: .*{message}"):
        read(text)


def test_merged_keys_may_stand_twice(read):
    text = (
        "TEST: &a {NMS: 1}\nTRAIN: {<<: {HAS_RPN: False, MAX_SIZE: 9}, HAS_RPN: True}"
    )
    config = read(text).config
    assert (config.has_rpn, config.images.max_size) == (True, 9)


def test_bad_arguments():
    for bad in (3, None):
        with pytest.raises(TypeError, match="file must be a path, got"):
            read_experiment(bad)
    with pytest.raises(ValueError, match=r"file must be a path, got 'a\\x00b'"):
        read_experiment("a\0b")
    with pytest.raises(TypeError, match="roidb must be a Roidb, got 5"):
        read_experiment("x.yml", roidb=5)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml"):
        read_experiment("nowhere.yml")
