"""The calls that are timed: their sizes and their RoIs."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Feature map [N, H, W, C], RoIs as proposals are, bins, scale."""

    shape: tuple[int, int, int, int]
    rois: int
    size: int
    scale: float
    pixels: tuple[float, float] = (16, 600)  # side of a RoI, log-uniform
    dtypes: tuple[str, ...] = ()  # these side by side; otherwise --dtype
    forms: str = ""  # calls of ours side by side: "padded" or "batched"

    def make_rois(self, seed: int = 0) -> np.ndarray:
        """[K, 5]: aspect 0.5 to 2, clipped to the image."""
        images, height, width, _ = self.shape
        limit = np.array([width, height]) / self.scale - 1
        rng = np.random.default_rng(seed)
        side = np.exp(rng.uniform(*np.log(self.pixels), self.rois))
        aspect = np.exp(rng.uniform(np.log(0.5), np.log(2), self.rois))
        half = np.stack([side * np.sqrt(aspect), side / np.sqrt(aspect)], 1) / 2
        centre = rng.uniform(0, 1, (self.rois, 2)) * limit
        index = rng.integers(0, images, (self.rois, 1))
        if self.forms == "batched":  # so many for every image, in order
            index = np.arange(self.rois)[:, None] * images // self.rois
        corners = np.clip(np.hstack([centre - half, centre + half]), 0, [*limit] * 2)
        return np.hstack([index, corners]).astype(np.float32)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{shape}, {self.rois} RoIs, {self.size}x{self.size}"


@dataclasses.dataclass(frozen=True)
class AlignWorkload(Workload):
    """RoIAlign of torchvision's detectors, `aligned=False`.

    With several levels over a pyramid, whose maps are each half as large as the last.
    """

    levels: int = 1
    ratio: int = 2  # samples of a bin along an axis; 0: adaptive

    def make_rois(self, seed: int = 0) -> np.ndarray:
        """[K, 5], image after image, as detectors give them."""
        rois = super().make_rois(seed)
        return rois[np.argsort(rois[:, 0], kind="stable")]

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """[N, H, W, C] of each level."""
        images, height, width, channels = self.shape
        sides = [(height >> i, width >> i) for i in range(self.levels)]
        return [(images, *side, channels) for side in sides]

    @property
    def scales(self) -> list[float]:
        """Of each level."""
        return [self.scale / 2**i for i in range(self.levels)]

    def __str__(self) -> str:
        samples = f"sampling ratio {self.ratio}" if self.ratio else "adaptive"
        levels = f", {self.levels} levels" if self.levels > 1 else ""
        return f"{super().__str__()}{levels}, {samples}"


# What detectors do: ours beside the peers.
DETECTORS = {
    "vgg16_test": Workload((1, 38, 63, 512), 300, 7, 1 / 16),
    "vgg16_train": Workload((2, 38, 63, 512), 256, 7, 1 / 16),
    "resnet_c4": Workload((2, 50, 84, 1024), 1000, 14, 1 / 16),
    "fpn_p2": Workload((2, 200, 336, 256), 1000, 7, 1 / 4, (16, 112)),
    "huge_rois": Workload((1, 100, 168, 256), 300, 7, 1 / 8, (700, 1600)),
    "tiny": Workload((1, 25, 25, 64), 16, 3, 1 / 16),
}

# What the op promises besides: half precision and padding save time, odd numbers
# of channels and batches cost none.
PROMISES = {
    "half": dataclasses.replace(
        DETECTORS["resnet_c4"], dtypes=("float32", "bfloat16", "float16")
    ),
    "channels_3": Workload((1, 38, 63, 3), 300, 7, 1 / 16),
    "channels_17": Workload((1, 38, 63, 17), 300, 7, 1 / 16),
    "channels_100": Workload((1, 38, 63, 100), 300, 7, 1 / 16),
    "padded": Workload((1, 38, 63, 512), 2000, 7, 1 / 16, forms="padded"),
    "batched": Workload((16, 38, 63, 512), 16 * 64, 7, 1 / 16, forms="batched"),
}

WORKLOADS = DETECTORS | PROMISES

_C4 = DETECTORS["resnet_c4"]
_FPN = (2, 200, 336, 256)  # the first of its levels; images of 800x1344

ALIGN = {
    "vgg16_train": AlignWorkload((2, 38, 63, 512), 256, 7, 1 / 16),
    "vgg16_train_adaptive": AlignWorkload((2, 38, 63, 512), 256, 7, 1 / 16, ratio=0),
    "resnet_c4_300": AlignWorkload(_C4.shape, 300, 14, 1 / 16),
    "resnet_c4_300_adaptive": AlignWorkload(_C4.shape, 300, 14, 1 / 16, ratio=0),
    "resnet_c4": AlignWorkload(_C4.shape, 1000, 14, 1 / 16),
    "resnet_c4_adaptive": AlignWorkload(_C4.shape, 1000, 14, 1 / 16, ratio=0),
    "fpn": AlignWorkload(_FPN, 1000, 7, 1 / 4, levels=4),
    "fpn_adaptive": AlignWorkload(_FPN, 1000, 7, 1 / 4, levels=4, ratio=0),
    "mask": AlignWorkload(_FPN, 100, 14, 1 / 4, levels=4),
}

# By op.
OPS = {"roi_pool": WORKLOADS, "roi_align": ALIGN}
