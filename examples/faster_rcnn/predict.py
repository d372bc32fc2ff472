"""Detections in images of one's own."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.faster_rcnn.config import ModelConfig
from examples.faster_rcnn.detect import Detections
from examples.faster_rcnn.evaluate import Evaluator
from examples.faster_rcnn.problem import Problem
from jax_roipool.data import Record, Roidb
from jax_roipool.data.images import ImageError, decode


def predict(
    model: ModelConfig,
    params: Any,
    files: Sequence[pathlib.Path],
    evaluator: Evaluator | None = None,
) -> tuple[list[NDArray[np.uint8]], list[Detections]]:
    """The images of files and what is found in them.

    Args:
      model: A detector that proposes its own regions.
      params: Its parameters.
      files: Images.
      evaluator: Its compiled programs are used.

    Raises:
      Problem: A file is no image.
    """
    try:
        images = [decode(file) for file in files]
    except ImageError as error:
        raise Problem(str(error)) from error
    records = [
        Record(str(i), str(file), *image.shape[:2], [], [])
        for i, (file, image) in enumerate(zip(files, images, strict=True))
    ]
    roidb = Roidb.from_records(records, model.classes[1:])
    batch = min(len(files), 20)
    runner = Evaluator(model, roidb, images_per_batch=batch)
    if evaluator is not None:
        runner.runner = evaluator.runner
        runner.images_per_batch = evaluator.images_per_batch
    found = runner.detect(params)
    return images, [found[i] for i in range(len(images))]
