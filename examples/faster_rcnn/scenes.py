"""Synthetic scenes of real handwriting, written as a Pascal VOC directory.

scikit-learn's handwritten digits (8 x 8 pixels, UCI 1998) are enlarged to a
threefold range of sizes and pasted, with overlap and clutter, on crops of
photographs that ship with scikit-image and scikit-learn. Nothing is downloaded.
Training and test scenes share neither digits nor photographs.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from xml.sax import saxutils

import cv2
import numpy as np
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray

CLASSES = tuple("0123456789")
# (height, width) in pixels; half of the scenes lie, half stand.
SIZES = ((128, 160), (160, 128))
# Of a digit, in pixels of the scene, before it is turned.
LEAST_HEIGHT, GREATEST_HEIGHT = 20, 60
# Of the smaller of two digits, the share that the boxes may have in common.
OVERLAP = 0.2
DIGITS_PER_SCENE = (4, 9)
# The first digits are for training. They stand in order of their writers, so that
# a cut between them also divides most writers.
TRAINING_DIGITS = 1297
# Below this opacity the ink of an enlarged digit no longer counts as the digit.
INK = 0.3
# Between ink and the mean of what lies under it, in levels of grey.
CONTRAST = 80

Image = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A digit in a scene: its class and box (x1, y1, x2, y2), corners inclusive."""

    name: str
    box: tuple[int, int, int, int]


def photographs(split: str) -> list[Image]:
    """The photographs of "train" or of "test", uint8 [H, W, 3], RGB."""
    data = skimage.data
    if split == "train":
        makers = ("astronaut", "camera", "chelsea", "coffee", "grass", "gravel")
        makers += ("hubble_deep_field", "immunohistochemistry", "retina", "rocket")
        images = [getattr(data, name)() for name in makers]
    else:
        images = [*sklearn.datasets.load_sample_images().images]  # china, flower
        images += [data.brick(), data.stereo_motorcycle()[0], data.moon()]
    return [
        np.ascontiguousarray(np.dstack([i] * 3) if i.ndim == 2 else i[..., :3])
        for i in images
    ]


def digits(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Opacity of the ink [n, 8, 8] from 0 to 1, and the classes [n]."""
    bunch = sklearn.datasets.load_digits()
    part = slice(TRAINING_DIGITS) if split == "train" else slice(TRAINING_DIGITS, None)
    return (bunch.images[part] / 16).astype(np.float32), bunch.target[part]


def background(rng: np.random.Generator, photo: Image, size: tuple[int, int]) -> Image:
    """A crop at a random scale, a little blurred, with lines and blobs on it."""
    height, width = size
    most = min(photo.shape[0] / height, photo.shape[1] / width)
    zoom = rng.uniform(min(1.0, most), min(3.0, most))
    rows, columns = int(height * zoom), int(width * zoom)
    top = rng.integers(photo.shape[0] - rows + 1)
    left = rng.integers(photo.shape[1] - columns + 1)
    crop = photo[top : top + rows, left : left + columns]
    scene = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        scene = np.ascontiguousarray(scene[:, ::-1])
    for _ in range(rng.integers(2, 8)):
        stroke(rng, scene)
    return scene


def stroke(rng: np.random.Generator, scene: Image) -> None:
    """Clutter: a line, a bent line, an ellipse or a box in any colour."""
    height, width = scene.shape[:2]
    color = tuple(int(c) for c in rng.integers(0, 256, 3))
    points = rng.integers(0, (width, height), (3, 2), dtype=np.int32)
    points[1:] = points[0] + rng.integers(-40, 41, (2, 2))
    thick = int(rng.integers(1, 5))
    kind = rng.integers(4)
    first, second = (tuple(int(v) for v in p) for p in points[:2])
    if kind == 0:
        cv2.line(scene, first, second, color, thick, cv2.LINE_AA)
    elif kind == 1:
        cv2.polylines(scene, [points], False, color, thick, cv2.LINE_AA)
    elif kind == 2:
        axes = tuple(int(v) for v in rng.integers(3, 25, 2))
        cv2.ellipse(
            scene, first, axes, 0, 0, int(rng.integers(90, 361)), color, thick, 16
        )
    else:
        cv2.rectangle(scene, first, second, color, thick)


def enlarge(
    rng: np.random.Generator, digit: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The digit's opacity at its size in the scene, turned a little, cut to its ink."""
    height = np.exp(rng.uniform(np.log(LEAST_HEIGHT), np.log(GREATEST_HEIGHT)))
    width = height * rng.uniform(0.9, 1.1)
    size = int(np.ceil(1.3 * max(height, width)))
    turn = cv2.getRotationMatrix2D((4, 4), float(rng.uniform(-10, 10)), 1)
    # From the 8 pixels to the scene's, about the middle.
    grow = np.array(
        [[width / 8, 0, size / 2 - width / 2], [0, height / 8, size / 2 - height / 2]]
    )
    matrix = grow @ np.vstack([turn, [0, 0, 1]])
    large = cv2.warpAffine(digit, matrix, (size, size), flags=cv2.INTER_CUBIC)
    ys, xs = np.nonzero(large > INK)
    return np.clip(
        large[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], 0, 1, dtype=np.float32
    )


def ink_color(rng: np.random.Generator, under: Image) -> NDArray[np.float32]:
    """A colour that stands out from what lies under it."""
    grey = under.mean()
    for _ in range(100):
        color = rng.uniform(0, 255, 3)
        if abs(color.mean() - grey) > CONTRAST:
            break
    return color.astype(np.float32)


def scene(
    rng: np.random.Generator,
    photos: Sequence[Image],
    inks: NDArray[np.float32],
    labels: NDArray[np.int64],
    size: tuple[int, int],
) -> tuple[Image, list[Drawn]]:
    """One scene and what is drawn in it."""
    image = background(rng, photos[rng.integers(len(photos))], size)
    drawn: list[Drawn] = []
    for _ in range(rng.integers(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1] + 1)):
        k = rng.integers(len(inks))
        ink = enlarge(rng, inks[k])
        height, width = ink.shape
        for _ in range(20):
            x = int(rng.integers(size[1] - width + 1))
            y = int(rng.integers(size[0] - height + 1))
            box = (x, y, x + width - 1, y + height - 1)
            if all(shared(box, other.box) <= OVERLAP for other in drawn):
                under = image[y : y + height, x : x + width]
                color = ink_color(rng, under)
                opacity = ink[..., None] * np.float32(rng.uniform(0.9, 1))
                under[:] = np.rint(under + opacity * (color - under))
                drawn.append(Drawn(CLASSES[labels[k]], box))
                break
    for _ in range(rng.integers(0, 3)):  # over the digits, and thin
        ends = rng.integers(0, (size[1], size[0]), (2, 2))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.line(image, tuple(map(int, ends[0])), tuple(map(int, ends[1])), color, 1)
    return image, drawn


def shared(a: Sequence[int], b: Sequence[int]) -> float:
    """The pixels in both boxes, as a share of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return max(width, 0) * max(height, 0) / min(areas)


def annotation(name: str, size: tuple[int, int], drawn: Sequence[Drawn]) -> str:
    """The XML of VOC, whose coordinates count from 1."""
    objects = "".join(
        f"<object><name>{saxutils.escape(d.name)}</name><difficult>0</difficult>"
        "<bndbox>"
        + "".join(
            f"<{tag}>{value + 1}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), d.box, strict=True)
        )
        + "</bndbox></object>\n"
        for d in drawn
    )
    return (
        f"<annotation><filename>{name}.jpg</filename>\n<size><width>{size[1]}</width>"
        f"<height>{size[0]}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def write_scenes(
    directory: pathlib.Path, *, train: int, test: int, seed: int = 0
) -> pathlib.Path:
    """A VOC directory with the image sets "train" and "test".

    One that is there and was made with the same arguments is kept. A new one
    appears whole or not at all.

    Args:
      directory: Where; its parent need not exist.
      train: Number of training scenes.
      test: Number of test scenes.
      seed: Decides all that is random.

    Returns:
      `directory`.
    """
    made = {"version": 1, "train": train, "test": test, "seed": seed}
    note = directory / "scenes.json"
    if note.is_file() and json.loads(note.read_text("utf-8")) == made:
        return directory
    if directory.exists() and not note.is_file() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is there and holds no scenes; not replaced")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        root = pathlib.Path(temporary, "scenes")
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True)
        for number, (split, count) in enumerate((("train", train), ("test", test))):
            photos, (inks, labels) = photographs(split), digits(split)
            names = [f"{split}_{i:05}" for i in range(count)]
            for i, name in enumerate(names):
                rng = np.random.default_rng((seed, number, i))
                size = SIZES[i % 2]
                image, drawn = scene(rng, photos, inks, labels, size)
                cv2.imwrite(
                    str(root / "JPEGImages" / f"{name}.jpg"),
                    cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                    [cv2.IMWRITE_JPEG_QUALITY, 92],
                )
                (root / "Annotations" / f"{name}.xml").write_text(
                    annotation(name, size, drawn), "utf-8"
                )
            (root / "ImageSets/Main" / f"{split}.txt").write_text(
                "".join(f"{name}\n" for name in names), "utf-8"
            )
        (root / "scenes.json").write_text(json.dumps(made), "utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        root.rename(directory)
    return directory
