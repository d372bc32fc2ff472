"""torchvision's answers: stored ones in CI, its own on larger calls nightly.

    python -m tests.ops.test_torchvision    stores them anew

Where torchvision crashes or contradicts itself, nothing is asked of it: boxes that are
not finite, and adaptive grids of reversed boxes with `aligned=True`.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

import jax_roipool
from jax_roipool import boxes
from tests.oracle import roi_align
from tests.table import TOLERANCE

STORED = pathlib.Path(__file__).with_name("torchvision.npz")
VERSION = "0.29.1"  # whose answers are stored

# Around maps of 160 x 224 pixels: samples at the borders -1, 0, E - 1 and E and beyond
# them, boxes of no size and boxes around the map.
BOXES = np.float32(
    [
        [0, 0, 223, 159],
        [-32, -32, 0, 0],
        [16.5, 40.25, 130, 47],
        [64, 64, 64, 64],
        [100, 3, 101, 150],
        [-40, 20, 300, 90],
        [224, 160, 256, 192],
        [192.5, 100, 224.25, 161.75],
        [500, 500, 600, 600],
        [48, 48, 80, 80],
    ]
)
REVERSED = np.float32([[150, 20, 30, 140], [150, 140, 30, 20]])
SQUARES = np.float32([[0, 0, x, x] for x in (20, 112, 224, 448, 500)])
# Of the least area of a level, a little more and a little less: as torchvision maps
# levels of its usual scales. Not of the highest level's: there torchvision has less by
# one number on some machines.
_SIDE = np.float32(112)
_WIDTH = np.float32(12543.98046875) / _SIDE
_WIDTHS = _WIDTH + np.spacing(_WIDTH) * np.arange(-3, 4, dtype=np.float32)
AT_BORDERS = np.float32(
    [[0, 0, w * 2**k, _SIDE * 2**k] for w in _WIDTHS for k in range(2)]
)


def numbers(*shape, seed=0):
    """Of -4 to 4, in no order, the same everywhere."""
    at = np.arange(np.prod(shape)) + 1000003 * seed
    return ((at * at * 7919 % 100003 % 1009 - 504) / 126).reshape(shape).astype("f4")


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, in the flat form and channels last.

    Attributes:
      op: "roi_pool" or "roi_align".
      shapes: [N, H, W, C] of each level.
      scales: Of each level.
      boxes: [K, 4]; images take turns.
      size: Rows and columns of bins.
      static: Further arguments of `roi_align`.
    """

    op: str
    shapes: tuple
    scales: tuple
    boxes: np.ndarray
    size: tuple = (2, 3)
    static: dict = dataclasses.field(default_factory=dict)

    @property
    def maps(self):
        return [numbers(*shape, seed=i) for i, shape in enumerate(self.shapes)]

    @property
    def rois(self):
        image = np.arange(len(self.boxes)) % self.shapes[0][0]
        rois = np.concatenate([image[:, None], self.boxes], axis=1)
        return rois[np.argsort(image, kind="stable")].astype(np.float32)

    @property
    def cotangent(self):
        shape = (len(self.boxes), *self.size, self.shapes[0][-1])
        # Whole, so that gradients of maxima are exact sums.
        return np.round(numbers(*shape, seed=9))

    @property
    def function(self):
        """Ours, of a list of maps, and RoIs."""
        op = functools.partial(getattr(jax_roipool, self.op), **self.static)
        if len(self.shapes) > 1:
            return lambda maps, rois: op(maps, rois, self.size, self.scales)
        return lambda maps, rois: op(maps[0], rois, self.size, self.scales[0])

    @functools.cached_property
    def _program(self):
        def call(maps, rois, cotangent):
            pooled, vjp = jax.vjp(lambda x: self.function(x, rois), maps)
            return pooled, *vjp(cotangent)[0]

        return jax.jit(call)

    def ours(self, maps, cotangent):
        """The result, and the gradients of all levels."""
        return [np.asarray(x) for x in self._program(maps, self.rois, cotangent)]

    def theirs(self):
        """The same by torchvision."""
        import torch
        from torchvision import ops

        maps = [torch.tensor(x).permute(0, 3, 1, 2).contiguous() for x in self.maps]
        maps = [x.requires_grad_() for x in maps]
        rois = torch.tensor(self.rois)
        call = (self.size, self.scales[0])
        if self.op == "roi_pool":
            pooled = ops.roi_pool(maps[0], rois, *call)
        elif len(maps) == 1:
            pooled = ops.roi_align(maps[0], rois, *call, **self.static)
        else:
            names = [str(i) for i in range(len(maps))]
            # Of maps as small as ours it takes the first for the level of its scale.
            coarser = np.log2(0.25 / self.scales[0])
            ratio = self.static["sampling_ratio"]
            pooler = ops.MultiScaleRoIAlign(
                names, self.size, ratio, canonical_level=int(4 + coarser)
            )
            images, height, width, _ = self.shapes[0]
            size = (int(height / self.scales[0]), int(width / self.scales[0]))
            of_images = [rois[rois[:, 0] == i, 1:] for i in range(images)]
            named = dict(zip(names, maps, strict=True))
            pooled = pooler(named, of_images, [size] * images)
        cotangent = torch.tensor(self.cotangent).permute(0, 3, 1, 2)
        gradients = torch.autograd.grad(pooled, maps, cotangent)
        return [x.detach().permute(0, 2, 3, 1).numpy() for x in (pooled, *gradients)]

    def scale(self):
        """What answers would be if nothing cancelled: sums of |weight * feature|.

        Over a pyramid by the op, else by the oracle.
        """
        maps, cotangent = [np.abs(x) for x in self.maps], np.abs(self.cotangent)
        if len(maps) > 1:
            return self.ours(maps, cotangent)
        rest = (self.rois, self.size, self.scales * 2)
        return (
            roi_align.roi_align(maps[0], *rest, **self.static),
            roi_align.gradient(cotangent, maps[0], *rest, **self.static),
        )

    def check(self, wanted):
        """Ours against given answers."""
        got = self.ours(self.maps, self.cotangent)
        if self.op == "roi_pool":
            for x, want in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(x, want)
            return
        assert any((np.abs(want) > 0.1).any() for want in wanted[1:])
        for x, want, scale in zip(got, wanted, self.scale(), strict=True):
            assert x.shape == want.shape
            np.testing.assert_array_less(np.abs(x - want), TOLERANCE * scale + 1e-30)


def calls(channels, cells, levels, sized):
    """By name: every alignment and sampling ratio, a pyramid, `roi_pool`.

    Args:
      channels: Of the maps.
      cells: Rows and columns of single maps.
      levels: Rows, columns and scale of the finest of four levels.
      sized: Boxes of every level.
    """
    found = {}
    shapes, scale = ((2, *cells, channels),), (cells[0] / 160,)
    for ratio in range(4):
        for aligned in (False, True):
            some = [BOXES] if aligned and not ratio else [BOXES, REVERSED]
            found[f"roi_align {ratio} {aligned}"] = Call(
                "roi_align",
                shapes,
                scale,
                np.concatenate(some),
                static={"sampling_ratio": ratio, "aligned": aligned},
            )
    found["roi_pool"] = Call("roi_pool", shapes, scale, BOXES)
    height, width, finest = levels
    for ratio in (0, 2):
        found[f"pyramid {ratio}"] = Call(
            "roi_align",
            tuple((2, height >> i, width >> i, channels) for i in range(4)),
            tuple(finest / 2**i for i in range(4)),
            np.concatenate([BOXES, sized]),
            (2, 2),
            static={"sampling_ratio": ratio, "aligned": False},
        )
    return found


SMALL = calls(1, (5, 7), (8, 8, 1 / 64), SQUARES)
LARGE = calls(33, (20, 28), (128, 160, 1 / 4), np.concatenate([SQUARES, AT_BORDERS]))


def crowd(count):
    """Boxes that overlap much, and scores that differ."""
    center = numbers(count, 2, seed=1) * 5
    half = 10 + np.abs(numbers(count, 2, seed=2))
    scores = np.random.default_rng(0).permutation(count)
    return np.concatenate([center - half, center + half], 1), np.float32(scores)


def kept_by_torchvision(count, threshold):
    import torch
    from torchvision import ops

    return ops.nms(*map(torch.tensor, crowd(count)), threshold).numpy()


def check_nms(count, threshold, wanted):
    indices, valid = map(np.asarray, boxes.nms(*crowd(count), threshold, count))
    assert 0 < len(wanted) < count
    np.testing.assert_array_equal(indices[valid], wanted)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


def _key(name, number):
    return f"{name}, {number}"


@pytest.mark.plain_jax_in_ci(name=["roi_pool", "roi_align 2 True"])
@pytest.mark.parametrize("name", SMALL)
def test_stored_answers(name, lowered_to, stored):
    call = SMALL[name]
    call.check([stored[_key(name, i)] for i in range(1 + len(call.shapes))])


def test_stored_nms(stored):
    check_nms(40, 0.5, stored["nms"])


@pytest.mark.nightly
@pytest.mark.parametrize("name", LARGE)
def test_torchvision(name, implementation):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    LARGE[name].check(LARGE[name].theirs())


@pytest.mark.nightly
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_torchvision_nms(threshold):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    check_nms(2000, threshold, kept_by_torchvision(2000, threshold))


def store():
    arrays = {"nms": kept_by_torchvision(40, 0.5)}
    for name, call in SMALL.items():
        arrays |= {_key(name, i): x for i, x in enumerate(call.theirs())}
    np.savez_compressed(STORED, **arrays)


if __name__ == "__main__":
    store()
