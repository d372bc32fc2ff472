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
