"""Writes the calls of tests/cases.py for driver.cc, which reads them there."""

import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import cases  # noqa: E402
from tests.oracle.rois import image_of  # noqa: E402


def records():
    """Sizes, scale, boxes, images and map of each call, as bytes."""
    for case in [*cases.CASES, *cases.CHANNEL_CASES]:
        images, height, width, channels = case.features.shape
        valid = np.ones(len(case.rois), bool) if case.valid is None else case.valid
        with np.errstate(over="ignore"):
            boxes = case.rois[:, 1:].astype(np.float32)
        found = [
            image_of(roi, images, one)
            for roi, one in zip(case.rois, valid, strict=True)
        ]
        image = np.array([-1 if i is None else i for i in found], np.int32)
        scale = np.array(case.scale, np.float32)
        for at, layout in enumerate(cases.LAYOUTS):
            for element, dtype in enumerate(cases.DTYPES):
                features = cases.in_layout(case.features_as(dtype), layout)
                sizes = [at, element, 1, images, height, width, channels]
                sizes += [len(case.rois), *case.size]
                yield np.array(sizes, np.int64).tobytes()
                for array in (scale, boxes, image, np.ascontiguousarray(features)):
                    yield array.tobytes()


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_bytes(b"".join(records()))
