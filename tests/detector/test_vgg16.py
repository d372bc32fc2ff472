"""VGG16's weights in torchvision's layout, against a forward pass in NumPy.

The pass knows torch's layout alone: NCHW images, OIHW kernels, pooled maps that are
flattened channel by channel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")

import optax
from flax import nnx

from examples.faster_rcnn import config, vgg16
from examples.faster_rcnn.problem import Problem
from examples.faster_rcnn.step import optimizer

WIDTHS = (4, 6, 8, 10, 10)
HIDDEN, CLASSES, BINS = 12, 5, 7
# torchvision's `features`: widths of convolutions, "M" for the maxima.
LAYOUT = "44M66M888Maaa Maaa".replace(" ", "")


def torch_weights(seed=0):
    rng = np.random.default_rng(seed)
    weights, number, width_in = {}, 0, 3
    for letter in LAYOUT:
        if letter == "M":
            number += 1
            continue
        width = int(letter, 16)
        scale = (2 / (9 * width_in)) ** 0.5
        weights[f"features.{number}.weight"] = rng.normal(
            0, scale, (width, width_in, 3, 3)
        )
        weights[f"features.{number}.bias"] = rng.normal(0, 0.1, width)
        number, width_in = number + 2, width
    bins = width_in * BINS * BINS
    for number, shape in ((0, (HIDDEN, bins)), (3, (HIDDEN, HIDDEN))):
        weights[f"classifier.{number}.weight"] = rng.normal(0, shape[1] ** -0.5, shape)
        weights[f"classifier.{number}.bias"] = rng.normal(0, 0.1, shape[0])
    weights["classifier.6.weight"] = rng.normal(size=(CLASSES, HIDDEN))  # not read
    return {name: w.astype(np.float32) for name, w in weights.items()}


def torch_features(weights, images):
    """`features` without its last maximum; [N, C, H, W] in float64."""
    x, number = images.astype(np.float64), 0
    for letter in LAYOUT:
        if letter == "M":
            n, c, h, w = x.shape
            x = x[:, :, : h // 2 * 2, : w // 2 * 2]
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
            number += 1
            continue
        kernel = weights[f"features.{number}.weight"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, kernel)
        x = np.maximum(x + weights[f"features.{number}.bias"][:, None, None], 0)
        number += 2
    return x


def torch_head(weights, pooled):
    """[R, C, 7, 7] through fc6 and fc7."""
    x = pooled.reshape(len(pooled), -1).astype(np.float64)
    for number in (0, 3):
        x = x @ weights[f"classifier.{number}.weight"].T
        x = np.maximum(x + weights[f"classifier.{number}.bias"], 0)
    return x


def parts():
    """Backbone and head without numbers: random ones take long to make."""
    return nnx.eval_shape(
        lambda: (
            vgg16.VGG16(nnx.Rngs(0), WIDTHS),
            vgg16.VGG16Head(WIDTHS[-1] * BINS**2, HIDDEN, nnx.Rngs(1)),
        )
    )


@pytest.fixture(params=[".npz", ".safetensors"])
def file(request, tmp_path):
    path = tmp_path / f"vgg16{request.param}"
    if request.param == ".npz":
        np.savez(path, **torch_weights())
    else:
        safetensors = pytest.importorskip("safetensors.numpy")
        safetensors.save_file(torch_weights(), path)
    return path


def test_forward_pass(file):
    backbone, head = parts()
    vgg16.load(file, backbone, head)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 3, 36, 50)).astype(np.float32)
    want = torch_features(torch_weights(), images)
    got, same = nnx.jit(lambda m, x: m(x))(backbone, images.transpose(0, 2, 3, 1))
    assert got.shape == (2, 2, 3, 10)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, atol=1e-5)
    np.testing.assert_array_equal(got, same)

    pooled = rng.random((3, 10, BINS, BINS)).astype(np.float32)
    want = torch_head(torch_weights(), pooled)
    flat = pooled.transpose(0, 2, 3, 1).reshape(3, -1)
    assert (want > 0).any()
    np.testing.assert_allclose(head(flat, None), want, atol=1e-5)


def test_dropout_is_for_training_alone():
    head = vgg16.VGG16Head(8, HIDDEN, nnx.Rngs(0))
    x = np.ones((4, 8), np.float32)
    np.testing.assert_array_equal(head(x, None), head(x, None))
    one, other = (np.asarray(head(x, jax.random.key(k))) for k in (0, 1))
    assert (one != other).any()


@pytest.mark.nightly
@pytest.mark.parametrize("frozen_blocks", [0, 2])
def test_the_first_blocks_keep_their_weights(frozen_blocks):
    """Without a gradient, they neither decay nor move on."""
    backbone = nnx.eval_shape(lambda: vgg16.VGG16(nnx.Rngs(0), WIDTHS, frozen_blocks))
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32),
        nnx.to_pure_dict(nnx.state(backbone)),
    )
    params = {"backbone": state, "head": {"conv1_1": state["conv1_1"]}}
    model = config.vgg16(("__background__", "cat"), frozen_blocks=frozen_blocks)
    update = optimizer(model, config.training("vgg16", warmup=1))

    def loss(params, images):
        merged = nnx.merge(nnx.graphdef(backbone), nnx.State(params["backbone"]))
        return merged(images)[0].sum()

    @jax.jit
    def step(params, memory, images):
        gradient = jax.grad(loss)(params, images)
        changes, memory = update.update(gradient, memory, params)
        return optax.apply_updates(params, changes), memory

    new, memory = params, update.init(params)
    for _ in range(3):
        new, memory = step(new, memory, jnp.ones((1, 16, 16, 3)))
    kept = {
        "/".join(key.key for key in path[:2])
        for path, same in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: bool((a == b).all()), params, new)
        )
        if same and path[2].key == "kernel"
    }
    blocks = [f"conv{block}_{i}" for block in (1, 2) for i in (1, 2)]
    assert kept == {f"backbone/{name}" for name in blocks[: 2 * frozen_blocks]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("features.28.bias"), "no array 'features.28.bias'"),
        (
            lambda w: w.update({"features.0.weight": np.zeros((4, 3, 5, 5))}),
            r"features.0.weight must have shape \[4, 3, 3, 3\], got \[4, 3, 5, 5\]",
        ),
    ],
)
def test_wrong_files(tmp_path, change, words):
    weights = torch_weights()
    change(weights)
    np.savez(tmp_path / "w.npz", **weights)
    with pytest.raises(Problem, match=words):
        vgg16.load(tmp_path / "w.npz", *parts())


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "missing.npz"])
def test_no_file_of_weights(tmp_path, name):
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(Problem, match="weights cannot be read"):
        vgg16.load(tmp_path / name, *parts())


def test_head_equals_torch():
    """The whole head, its two last layers included, beside torch's own."""
    torch = pytest.importorskip("torch")
    from examples.faster_rcnn.config import vgg16 as config
    from examples.faster_rcnn.model import Detector

    classes = ("__background__", "cat", "dog")
    detector = nnx.eval_shape(lambda: Detector(config(classes, hidden=64), nnx.Rngs(0)))
    bins, hidden = 512 * 49, 64
    torch.manual_seed(0)
    fc6, fc7 = torch.nn.Linear(bins, hidden), torch.nn.Linear(hidden, hidden)
    scores, boxes = torch.nn.Linear(hidden, 3), torch.nn.Linear(hidden, 12)
    pooled = np.random.default_rng(0).random((5, 512, 7, 7), np.float32)
    with torch.no_grad():
        x = torch.relu(fc6(torch.from_numpy(pooled).flatten(1)))
        x = torch.relu(fc7(x))
        want = scores(x).numpy(), boxes(x).numpy()

    def put(own, layer, order=lambda weight: weight.T):
        own.kernel = nnx.Param(jnp.asarray(order(layer.weight.detach().numpy())))
        own.bias = nnx.Param(jnp.asarray(layer.bias.detach().numpy()))

    def channels_last(weight):
        weight = weight.reshape(hidden, 512, 7, 7).transpose(2, 3, 1, 0)
        return weight.reshape(bins, hidden)

    put(detector.head.fc6, fc6, channels_last)
    put(detector.head.fc7, fc7)
    put(detector.scores, scores)
    put(detector.boxes, boxes)
    got = detector.classify(pooled.transpose(0, 2, 3, 1)[None])
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(np.asarray(ours)[0] - theirs).max() < 1e-4
        assert np.abs(theirs).max() > 0.1
