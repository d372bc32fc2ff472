"""Small data sets for tests: records of images that exist."""

import numpy as np
import pytest

from jax_roipool.data import Record, Roidb
from tests.oracle import data as data_oracle

cv2 = pytest.importorskip("cv2")

CLASSES = ["cat", "dog", "cow", "sheep"]
K = len(CLASSES) + 1


def png(image):
    """The bytes of an RGB image."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done
    return data.tobytes()


def roidb_of(count, seed=0, proposals=30):
    """Random records with random pixels, in memory."""
    records = []
    for i, fields in enumerate(data_oracle.random_records(count, seed, K, proposals)):
        pixels = np.random.default_rng([seed, i])
        size = (fields["height"], fields["width"], 3)
        fields["image"] = png(pixels.integers(0, 256, size, np.uint8))
        records.append(Record(**fields))
    return Roidb.from_records(records, CLASSES)


def write_voc(directory, image_set, images):
    """A directory in the format of VOC: by name an RGB image, a class, a box."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (directory / folder).mkdir(parents=True)
    for name, (image, kind, (x1, y1, x2, y2)) in images.items():
        height, width = image.shape[:2]
        (directory / "JPEGImages" / f"{name}.jpg").write_bytes(png(image))
        (directory / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height>"
            f"</size><object><name>{kind}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax>"
            f"<ymax>{y2 + 1}</ymax></bndbox></object></annotation>"
        )
    (directory / "ImageSets/Main" / f"{image_set}.txt").write_text("\n".join(images))
