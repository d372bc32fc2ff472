"""Evaluation: the test images detected once, then scored in three ways."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from examples.faster_rcnn import metrics, sources
from examples.faster_rcnn.config import ModelConfig
from examples.faster_rcnn.detect import Detections, Runner
from examples.faster_rcnn.problem import Problem
from jax_roipool.data import ImageError, Roidb


class Evaluator:
    """Detects and scores; compiled once for any parameters.

    Attributes:
      roidb: The test images, with proposals for Fast R-CNN.
    """

    def __init__(
        self,
        model: ModelConfig,
        roidb: Roidb,
        annotation_file: pathlib.Path | None = None,
        images_per_batch: int = 20,
    ) -> None:
        self.model, self.roidb = model, roidb
        self.annotation_file, self.images_per_batch = annotation_file, images_per_batch
        self.runner = Runner(model)

    def compile(self, params: Any) -> None:
        """Compiles detection for all sizes of batch, of a Faster R-CNN."""
        layer = sources.test_layer(self.roidb, self.model, self.images_per_batch)
        for spec in layer.spec.values():
            self.runner.compile(params, spec)

    def detect(
        self, params: Any, images: int | None = None, exchange: bool = False
    ) -> dict[int, Detections]:
        """Detections by the index of the image.

        Args:
          params: Of the detector.
          images: The first so many; `None`: all.
          exchange: Exchanges pooled features; see `detect.detect`.
        """
        roidb = self.roidb[:images]
        layer = sources.test_layer(roidb, self.model, self.images_per_batch)
        try:
            with layer:
                return dict(self.runner(params, layer, roidb, exchange))
        except ImageError as error:
            raise Problem(str(error)) from error

    def __call__(self, params: Any, images: int | None = None) -> dict[str, float]:
        """COCO's AP, AP50 and AP75."""
        found = self.detect(params, images)
        return self.coco(found, images)

    def coco(
        self, found: Mapping[int, Detections], images: int | None = None
    ) -> dict[str, float]:
        """COCO's AP, AP50 and AP75 of detections."""
        return metrics.coco(self.roidb[:images], found, self.annotation_file)


def report(roidb: Roidb, found: Mapping[int, Detections], coco: Any) -> str:
    """A table: COCO's numbers, VOC's two, and those of every class."""
    columns = {
        "AP50 area": metrics.voc(roidb, found, 0.5, "area"),
        "AP50 11-point": metrics.voc(roidb, found, 0.5, "11-point"),
        "AP75 area": metrics.voc(roidb, found, 0.75, "area"),
    }
    names = [name for name in roidb.classes if name in columns["AP50 area"]]
    width = max(map(len, [*names, "class", "mean"]))
    lines = [
        f"COCO  AP {coco['AP']:.3f}  AP50 {coco['AP50']:.3f}  AP75 {coco['AP75']:.3f}"
        f"  ({len(roidb)} images)",
        "",
        "VOC   " + "  ".join(["class".ljust(width), *columns]),
    ]
    for name in names:
        cells = [f"{c[name]:.3f}".rjust(len(title)) for title, c in columns.items()]
        lines.append("      " + "  ".join([name.ljust(width), *cells]))
    cells = [
        f"{np.mean(list(c.values()) or [0.0]):.3f}".rjust(len(title))
        for title, c in columns.items()
    ]
    lines.append("      " + "  ".join(["mean".ljust(width), *cells]))
    return "\n".join(lines)
