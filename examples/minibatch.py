"""A minibatch of Fast R-CNN, and a picture of what was sampled for it.

    python examples/minibatch.py                                  # four photographs
    python examples/minibatch.py --voc VOCdevkit/VOC2007 trainval

Ground truth and proposals go in; out come images of one shape with a fixed number
of foreground and background RoIs each, then pooled features of all of them. Pascal
VOC has no proposals, so here they are the ground truth, moved about.

Needs the extras: pip install 'jax_roipool[data,examples]'
"""

import argparse

import cv2
import jax
import matplotlib.pyplot as plt
import numpy as np
import skimage
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jax_roipool import boxes, data, roi_pool
from jax_roipool.data import (
    ImageConfig,
    LayerConfig,
    Minibatch,
    Record,
    RoIDataLayer,
    Roidb,
    SamplingConfig,
)

CLASSES = ("cat", "cup", "face", "rocket")
# Boxes (x1, y1, x2, y2) in pixels of scikit-image's photographs, corners inclusive.
PHOTOGRAPHS = {
    "chelsea": ("cat", (0, 0, 395, 299)),
    "coffee": ("cup", (172, 15, 412, 308)),
    "astronaut": ("face", (168, 40, 286, 200)),
    "rocket": ("rocket", (300, 126, 342, 408)),
}
CONFIG = LayerConfig(
    images=ImageConfig(scales=(300,), max_size=500, transport="uint8"),
    sampling=SamplingConfig(batch_rois=48, images_per_batch=3),
)
FOREGROUND, BACKGROUND, TRUTH = "#2ee66b", "#ff5a36", "white"


def photographs() -> Roidb:
    """scikit-image's photographs as records, encoded in memory."""
    records = []
    for name, (label, box) in PHOTOGRAPHS.items():
        image = getattr(skimage.data, name)()
        _, encoded = cv2.imencode(".jpg", image[..., ::-1])
        height, width = image.shape[:2]
        classes = [CLASSES.index(label) + 1]
        records.append(Record(name, encoded.tobytes(), height, width, [box], classes))
    return Roidb.from_records(records, CLASSES)


def with_proposals(roidb: Roidb, count: int = 300) -> Roidb:
    """Boxes near the ground truth and far from it, as a proposal method finds them."""
    rng = np.random.default_rng(0)
    proposals = []
    for record in roidb:
        size = np.array([record.width, record.height] * 2, np.float32)
        truth = record.boxes if len(record.boxes) else size[None] * [0, 0, 1, 1]
        near = truth[rng.integers(len(truth), size=count)]
        extent = np.tile(near[:, 2:] - near[:, :2] + 1, 2)
        moved = near + rng.normal(0, 0.25, near.shape) * extent
        moved = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        proposals.append(boxes.clip(moved, record.height, record.width, inclusive=True))
    return roidb.add_proposals(proposals)


@jax.jit
def pooled_pixels(batch: Minibatch) -> jax.Array:
    """What a detector does with a batch; here the features are the pixels."""
    features = data.to_features(batch.data, batch.im_info, CONFIG.images)
    return roi_pool(features, batch.rois, 7, valid=batch.valid)


def draw(axes: Axes, batch: Minibatch, i: int, roidb: Roidb) -> None:
    """One image of the batch with its RoIs."""
    record = roidb[int(batch.image_index[i])]
    scale = batch.im_info[i, 2]
    axes.imshow(batch.data[i])
    labels, valid = batch.labels[i], batch.valid[i]
    background = batch.rois[i][valid & (labels == 0)]
    foreground = batch.rois[i][valid & (labels > 0)]
    for some, color, width, style in (
        (background, BACKGROUND, 1.0, "-"),
        (foreground, FOREGROUND, 1.6, "-"),
        (record.boxes * scale, TRUTH, 2.2, "--"),
    ):
        for x1, y1, x2, y2 in some:
            corner, extent = (x1, y1), (x2 - x1 + 1, y2 - y1 + 1)
            axes.add_patch(
                Rectangle(corner, *extent, fill=False, ec=color, lw=width, ls=style)
            )
    names = ", ".join(sorted({roidb.classes[k] for k in labels if k})) or "nothing"
    mirrored = ", mirrored" if record.flipped else ""
    axes.set_title(
        f"{record.id}{mirrored}: {len(foreground)} of {names}, "
        f"{len(background)} background, {int((~valid).sum())} padding",
        fontsize=10,
    )
    axes.set_xticks([])
    axes.set_yticks([])


def main() -> None:
    """Makes a batch, pools its RoIs, draws it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voc", nargs=2, metavar=("DIRECTORY", "IMAGE_SET"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="minibatch.png")
    arguments = parser.parse_args()

    roidb = data.read_voc(*arguments.voc) if arguments.voc else photographs()
    roidb = with_proposals(roidb).with_flips().filter(data.has_samples)
    layer = RoIDataLayer(roidb, roidb.num_classes, CONFIG, seed=arguments.seed)
    for bucket, spec in layer.spec.items():
        print(f"batches of {bucket[0]} x {bucket[1]}: {spec.data}, {spec.rois}")
    batch = next(layer)
    pooled = pooled_pixels(batch)
    foreground = int((batch.labels > 0).sum())
    print(
        f"{int(batch.image_weights.sum())} images, {int(batch.valid.sum())} RoIs, "
        f"{foreground} of them foreground; pooled: {pooled.shape}"
    )

    figure, row = plt.subplots(1, len(batch.data), figsize=(15, 4), squeeze=False)
    for i, axes in enumerate(row.flat):
        if batch.image_weights[i]:
            draw(axes, batch, i, roidb)
        else:
            axes.set_axis_off()  # fills the batch, weight zero
    figure.legend(
        handles=[
            Rectangle((0, 0), 1, 1, fill=False, ec=FOREGROUND, label="foreground"),
            Rectangle((0, 0), 1, 1, fill=False, ec=BACKGROUND, label="background"),
            Rectangle((0, 0), 1, 1, fc="grey", ec=TRUTH, ls="--", label="ground truth"),
        ],
        loc="lower center",
        ncols=3,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(arguments.output, dpi=80)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
