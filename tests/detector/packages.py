"""What the detector example needs, to import or be skipped by.

pytest.importorskip("tests.detector.packages")
"""

import pytest

for package in (
    "flax",
    "optax",
    "orbax.checkpoint",
    "pycocotools",
    "sklearn",
    "skimage",
):
    pytest.importorskip(package)
