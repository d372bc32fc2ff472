"""The data sets that the detector knows: synthetic scenes, Pascal VOC, COCO."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from examples.faster_rcnn import scenes
from examples.faster_rcnn.config import ModelConfig, TrainConfig
from examples.faster_rcnn.problem import Problem
from jax_roipool.data import (
    VOC_CLASSES,
    LayerConfig,
    RoIDataLayer,
    Roidb,
    SamplingConfig,
    read_coco,
    read_voc,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images and their boxes are.

    Attributes:
      kind: "scenes", "voc" or "coco".
      path: The directory; that of scenes is made where it is not there.
      train_set: Name of the training images.
      test_set: Name of the test images.
      classes: Of a VOC directory; of the others they are known.
      scenes: Number of training and of test scenes.
      seed: Of the scenes.
    """

    kind: str
    path: str
    train_set: str = "train"
    test_set: str = "test"
    classes: tuple[str, ...] = ()
    scenes: tuple[int, int] = (4000, 200)
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain lists, strings and numbers."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        )

    def annotation_file(self, image_set: str) -> pathlib.Path | None:
        """COCO's file of a set of images; `None` for the others."""
        if self.kind != "coco":
            return None
        return pathlib.Path(self.path, "annotations", f"instances_{image_set}.json")

    def read(self, image_set: str) -> Roidb:
        """The images of a set.

        Raises:
          Problem: There are none, or a file is missing or wrong.
        """
        root = pathlib.Path(self.path)
        try:
            if self.kind == "scenes":
                train, test = self.scenes
                scenes.write_scenes(root, train=train, test=test, seed=self.seed)
                return read_voc(root, image_set, classes=scenes.CLASSES)
            if self.kind == "voc":
                return read_voc(root, image_set, classes=self.classes or VOC_CLASSES)
            file = self.annotation_file(image_set)
            assert file is not None
            return read_coco(file, root / image_set)
        except (OSError, ValueError) as error:
            raise Problem(str(error)) from error


def with_proposals(roidb: Roidb, file: pathlib.Path) -> Roidb:
    """The roidb with the proposals of an `.npz` file: one array per image id.

    Raises:
      Problem: The file cannot be read, lacks an image, or a box is wrong.
    """
    try:
        # Opened here: NumPy leaves a file open that is no archive.
        with open(file, "rb") as stream, np.load(stream) as archive:
            missing = [r.id for r in roidb if r.id not in archive.files]
            if missing:
                raise Problem(f"{file}: no proposals for image {missing[0]!r}")
            return roidb.add_proposals([archive[r.id] for r in roidb])
    except Problem:
        raise
    except Exception as error:  # NumPy and zipfile have many
        raise Problem(f"{file}: proposals cannot be read: {error}") from error


def save_proposals(found: Mapping[str, Any], file: pathlib.Path) -> None:
    """Writes what `with_proposals` reads: an array per image id."""
    # `np.savez` has arguments of its own, which an id may be.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in found.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def trainable(roidb: Roidb) -> Roidb:
    """The images that have a box to learn from.

    Raises:
      Problem: There are none.
    """
    kept = roidb.filter(lambda record: bool(record.trainable.any()))
    if not len(kept):
        raise Problem("the training set is empty: no image has a box to learn from")
    return kept


def training_layer(
    roidb: Roidb, model: ModelConfig, training: TrainConfig, **options: Any
) -> RoIDataLayer:
    """Batches without end, shuffled."""
    config = LayerConfig(
        images=model.images, sampling=training.sampling(model), has_rpn=model.rpn
    )
    return RoIDataLayer(
        roidb, len(model.classes), config, seed=training.seed, **options
    )


def test_layer(roidb: Roidb, model: ModelConfig, images_per_batch: int) -> RoIDataLayer:
    """Batches of every image once, without their boxes' samples."""
    config = LayerConfig(
        images=model.images,
        sampling=SamplingConfig(
            images_per_batch=images_per_batch, batch_rois=images_per_batch
        ),
        has_rpn=True,
        shuffle=False,
    )
    # Proposals are made of images whose classes the model does not know, too.
    classes = max(len(model.classes), roidb.num_classes)
    return RoIDataLayer(roidb, classes, config, epochs=1)
