"""The detector trains on one device here; `test_sharding.py` takes eight."""

import jax
import pytest


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """What `data_mesh()` takes where nothing is said."""
    step = pytest.importorskip("examples.faster_rcnn.step")
    mesh = step.data_mesh
    monkeypatch.setattr(
        step, "data_mesh", lambda devices=None: mesh(devices or jax.devices()[:1])
    )
