"""The detector example on eight devices: the same loss and gradients, nothing moved."""

import math
import re

import pytest

pytest.importorskip("tests.detector.packages")

import jax
import numpy as np

from examples.faster_rcnn import config, losses, sources
from examples.faster_rcnn.step import Trainer, data_mesh

# Compiles in half the time.
QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.nightly
def test_loss_and_gradients(devices, tmp_path):
    source = sources.Source("scenes", str(tmp_path / "scenes"), scenes=(16, 1))
    roidb = source.read("train")[::2]
    model = config.small(roidb.classes)
    training = config.training("small", images_per_batch=devices, flips=False)
    batch = next(sources.training_layer(roidb, model, training))
    # One image is padding: the mean is over those of all devices that are none.
    batch = batch._replace(image_weights=np.float32([1] * 7 + [0]))
    results, moved = [], []
    for count in (1, devices):
        trainer = Trainer(model, training, data_mesh(jax.devices()[:count]))

        def run(params, batch, trainer=trainer):
            def of(params):
                key = jax.random.key(0)
                detector = trainer.model(params)
                return losses.loss(detector, batch, key, model, training)

            return jax.value_and_grad(of, has_aux=True)(params)

        operands = trainer.init().params, trainer.put(batch)
        program = jax.jit(run).lower(*operands).compile(QUICK)
        results.append(jax.device_get(program(*operands)))
        collective = r"= (.+?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
        moved.append(re.findall(collective, program.as_text()))
    one, eight = results
    assert len(jax.tree.leaves(one)) > 30
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max()
        ),
        one,
        eight,
    )
    assert moved[0] == []
    # Sums alone: of losses, gradients, and whether a loop is to go on.
    assert {name for _, name in moved[1]} == {"all-reduce"}
    # Each has the size of a gradient, or is one number.
    shapes = [s for shape, _ in moved[1] for s in re.findall(r"\[([\d,]*)\]", shape)]
    sizes = {math.prod(int(n) for n in s.split(",") if n) for s in shapes}
    assert sizes <= {1, *(x.size for x in jax.tree.leaves(one[1]))}
