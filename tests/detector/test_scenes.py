"""The synthetic scenes of the detector example: right boxes, and nothing shared."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")

import cv2

from examples.faster_rcnn import scenes
from jax_roipool.data import read_voc
from jax_roipool.data.images import decode as decode_image


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [(p.relative_to(root), hashlib.sha256(p.read_bytes())) for p in files]


def test_a_seed_gives_the_same_files_and_is_not_made_twice(tmp_path):
    first = scenes.write_scenes(tmp_path / "a", train=3, test=2, seed=1)
    again = scenes.write_scenes(tmp_path / "b", train=3, test=2, seed=1)
    other = scenes.write_scenes(tmp_path / "c", train=3, test=2, seed=2)
    one, two, three = (
        {name: h.hexdigest() for name, h in digest(root)}
        for root in (first, again, other)
    )
    assert one == two
    assert one != three
    before = (first / "scenes.json").stat().st_mtime_ns
    scenes.write_scenes(first, train=3, test=2, seed=1)
    assert (first / "scenes.json").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_what_is_no_directory_of_scenes_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no scenes"):
        scenes.write_scenes(tmp_path, train=1, test=1)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_training_and_test_share_neither_digits_nor_photographs():
    one, other = (scenes.digits(s)[0].reshape(-1, 64) for s in ("train", "test"))
    assert len(one) + len(other) == 1797
    assert not {r.tobytes() for r in one} & {r.tobytes() for r in other}
    one, other = (
        {hashlib.sha256(p.tobytes()).hexdigest() for p in scenes.photographs(s)}
        for s in ("train", "test")
    )
    assert len(one) == 10
    assert len(other) == 5
    assert not one & other


@pytest.mark.parametrize("seed", range(8))
def test_boxes_hold_the_ink_and_no_more(seed):
    """On white, where the ink of a scene can be seen."""
    rng = np.random.default_rng(seed)
    white = np.full((400, 400, 3), 255, np.uint8)
    inks, labels = scenes.digits("train")
    image, drawn = scenes.scene(rng, [white], inks, labels, scenes.SIZES[0])
    assert image.shape == (*scenes.SIZES[0], 3)
    for k, one in enumerate(drawn):
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 <= x2 < 160
        assert 0 <= y1 <= y2 < 128
        # Every side of the box has ink that darkens by at least a part of it.
        inside = 255 - image[y1 : y2 + 1, x1 : x2 + 1].min(axis=2).astype(int)
        for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert side.max() >= scenes.INK * scenes.CONTRAST * 0.8
        assert all(
            scenes.shared(one.box, two.box) <= scenes.OVERLAP for two in drawn[:k]
        )


def test_sizes_span_a_threefold_range(tmp_path):
    root = scenes.write_scenes(tmp_path / "s", train=60, test=1)
    roidb = read_voc(root, "train", classes=scenes.CLASSES)
    assert not roidb.report
    assert set(roidb.columns["classes"].tolist()) == set(range(1, 11))
    boxes = roidb.columns["boxes"]
    heights = boxes[:, 3] - boxes[:, 1] + 1
    assert np.quantile(heights, 0.95) / np.quantile(heights, 0.05) > 2.5
    for record in roidb[:4]:
        image = decode_image(record.image)
        assert image.shape[:2] == (record.height, record.width)
        assert cv2.Laplacian(image, cv2.CV_64F).std() > 3
