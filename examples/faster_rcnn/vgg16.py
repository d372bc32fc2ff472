"""VGG16 (Simonyan and Zisserman 2014) and weights in torchvision's layout."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from examples.faster_rcnn.problem import Problem

# Convolutions of each block; all but the last end in a maximum over 2 x 2.
BLOCKS = (2, 2, 3, 3, 3)
WIDTHS = (64, 128, 256, 512, 512)


class VGG16(nnx.Module):
    """The convolutions, without the last maximum: stride 16.

    The first `frozen_blocks` of the five blocks have no gradient.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        widths: tuple[int, ...] = WIDTHS,
        frozen_blocks: int = 0,
    ) -> None:
        self.frozen_blocks = frozen_blocks
        self.width = self.proposer_width = widths[-1]
        width_in = 3
        for block, (count, width) in enumerate(zip(BLOCKS, widths, strict=True), 1):
            for i in range(1, count + 1):
                conv = nnx.Conv(
                    width_in,
                    width,
                    (3, 3),
                    kernel_init=nnx.initializers.he_normal(),
                    rngs=rngs,
                )
                setattr(self, f"conv{block}_{i}", conv)
                width_in = width

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for block, count in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                x = nnx.relu(getattr(self, f"conv{block}_{i}")(x))
            if block == self.frozen_blocks:
                x = jax.lax.stop_gradient(x)
            if block < len(BLOCKS):
                x = nnx.max_pool(x, (2, 2), (2, 2))
        return x, x


class VGG16Head(nnx.Module):
    """fc6 and fc7, with dropout of a half in training."""

    def __init__(self, bins: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.fc6 = nnx.Linear(bins, hidden, rngs=rngs)
        self.fc7 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x: jax.Array, dropout: jax.Array | None) -> jax.Array:
        keys = (None, None) if dropout is None else jax.random.split(dropout)
        for layer, key in zip((self.fc6, self.fc7), keys, strict=True):
            x = nnx.relu(layer(x))
            if key is not None:
                x = self.dropout(x, deterministic=False, rngs=key)
        return x


def is_frozen(path: tuple[Any, ...], frozen_blocks: int) -> bool:
    """Whether a parameter of a `Detector` stays as it is given.

    Args:
      path: As `jax.tree.map_with_path` gives it, of nested dicts.
      frozen_blocks: How many of VGG16's do.
    """
    module, part, *_ = (entry.key for entry in path)
    return module == "backbone" and part.startswith(
        tuple(f"conv{block}_" for block in range(1, frozen_blocks + 1))
    )


def load(file: pathlib.Path, backbone: VGG16, head: VGG16Head) -> None:
    """Puts the weights of a file into a backbone and a head.

    Args:
      file: `.safetensors` or `.npz` with the names of torchvision's `vgg16`:
        `features.0.weight` ... `features.28.bias`, `classifier.0.weight` (fc6)
        and `classifier.3.weight` (fc7) with their biases; others are not read.
      backbone: Gets the convolutions; its arrays may be shapes alone.
      head: Gets fc6 and fc7.

    Raises:
      Problem: The file cannot be read, or an array lacks or has another shape.
    """
    arrays = read(file)

    def take(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in arrays:
            raise Problem(f"{file}: no array {name!r}, which torchvision's vgg16 has")
        if arrays[name].shape != shape:
            raise Problem(
                f"{file}: {name} must have shape {list(shape)}, got "
                f"{list(arrays[name].shape)}"
            )
        return np.asarray(arrays[name], np.float32)

    number = 0  # of the layer in torchvision's `features`, ReLUs and maxima included
    for block, count in enumerate(BLOCKS, 1):
        for i in range(1, count + 1):
            conv = getattr(backbone, f"conv{block}_{i}")
            rows, columns, width_in, width = conv.kernel.shape
            weight = take(f"features.{number}.weight", (width, width_in, rows, columns))
            bias = take(f"features.{number}.bias", (width,))
            _put(conv, weight.transpose(2, 3, 1, 0), bias)
            number += 2
        number += 1
    bins, hidden = head.fc6.kernel.shape
    channels = backbone.width
    side = round((bins // channels) ** 0.5)
    # torch flattens pooled maps channel by channel; ours have channels last.
    weight = take("classifier.0.weight", (hidden, bins))
    weight = weight.reshape(hidden, channels, side, side).transpose(2, 3, 1, 0)
    bias = take("classifier.0.bias", (hidden,))
    _put(head.fc6, weight.reshape(bins, hidden), bias)
    weight = take("classifier.3.weight", (hidden, hidden))
    _put(head.fc7, weight.T, take("classifier.3.bias", (hidden,)))


def _put(
    layer: nnx.Module, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    layer.kernel = nnx.Param(jnp.asarray(kernel))
    layer.bias = nnx.Param(jnp.asarray(bias))


def read(file: pathlib.Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of a `.safetensors` or `.npz` file by name."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(file))
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # each library has its own
        raise Problem(f"{file}: weights cannot be read: {error}") from error
