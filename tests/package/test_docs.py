"""Examples in docstrings and the README run, and the example makes a picture."""

import doctest
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.process import run_python

ROOT = pathlib.Path(__file__).parents[2]
MODULES = ["", ".debugging", ".lowering"]
MODULES += [f".ops.{x}" for x in ("levels", "roi_align", "roi_average_pool")]
MODULES += [".ops.roi_pool", ".ops.valid_rois"]
MODULES += [".linen", ".nnx", ".boxes", ".masks", ".data"]
MODULES += [f".boxes.{x}" for x in ("coding", "editing", "overlaps", "suppression")]
MODULES += [".data.readers", ".data.roidb", ".data.sampling"]
WITH_IMAGES = [".data.config", ".data.experiments", ".data.images", ".data.layer"]
WITH_IMAGES += [".data.minibatch", ".data.plan"]


@pytest.mark.parametrize("name", MODULES + WITH_IMAGES)
def test_docstrings(name):
    if name in (".linen", ".nnx"):
        pytest.importorskip("flax")
    if name in WITH_IMAGES:
        pytest.importorskip("cv2")
        pytest.importorskip("yaml")
    module = importlib.import_module(f"jax_roipool{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_function_has_an_example():
    import jax_roipool

    for name in jax_roipool.__all__:
        function = getattr(jax_roipool, name)
        doc = function.__doc__
        for part in ("Returns:", "Example:", ">>>"):
            assert part in doc, (name, part)
        if inspect.signature(function).parameters:
            assert "Args:" in doc or "akes the arguments of" in doc, name


def test_every_public_name_of_data_has_an_example():
    from jax_roipool import data

    pytest.importorskip("cv2")
    public = {k: v for k, v in vars(data).items() if not k.startswith("_")}
    public |= {name: getattr(data, name) for name in data._WITH_IMAGES}
    for name, value in public.items():
        # An error's example is in what raises it.
        is_error = isinstance(value, type) and issubclass(value, Exception)
        if callable(value) and value is not Any and not is_error:
            assert ">>>" in value.__doc__, name


def test_names_of_data():
    from jax_roipool import data

    pytest.importorskip("cv2")
    namespace: dict = {}
    exec("from jax_roipool.data import *", namespace)
    assert set(data.__all__) == set(namespace) - {"__builtins__"}
    assert set(data.__all__) <= set(dir(data))
    for name, value in namespace.items():
        # Ours, all of them, but for constants.
        assert (
            getattr(value, "__module__", "jax_roipool.data").startswith(
                "jax_roipool.data"
            )
            or name == "__builtins__"
        )
    imported = {n for n in vars(data) if not n.startswith("_")}
    modules = {n for n in imported if isinstance(getattr(data, n), type(data))}
    left = imported - set(data.__all__) - modules
    assert left <= {"Any", "TYPE_CHECKING"}


def test_boxes_and_records_need_no_opencv():
    done = run_python(
        """
        import sys
        sys.modules["cv2"] = sys.modules["grain"] = sys.modules["yaml"] = None
        from jax_roipool import data
        print(data.Report(), data.sample.__name__)
        data.RoIDataLayer
        """
    )
    assert done.stdout == "nothing left out sample\n"
    assert "pip install 'jax_roipool[data]'" in done.stderr


def test_readme(tmp_path, monkeypatch):
    pytest.importorskip("flax")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "roi_align(" in "".join(text.splitlines()[:5])
    first, *blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    *blocks, data_block = blocks
    assert len(blocks) == 4
    namespace: dict = {}
    for block in blocks:
        exec(block, namespace)
    import jax_roipool

    exec(first, {**namespace, "jax_roipool": jax_roipool})
    assert namespace["pooled"].shape == (2, 7, 7, 512)
    assert namespace["gradient"].shape == (2, 38, 63, 512)
    assert namespace["of_boxes"].shape == (2, 100, 4)

    pytest.importorskip("cv2")
    from tests.data.sets import write_voc

    image = np.zeros((375, 500, 3), np.uint8)
    images = {"1": (image, "cat", (0, 0, 99, 99))}
    write_voc(tmp_path / "VOCdevkit/VOC2007", "trainval", images)
    monkeypatch.chdir(tmp_path)

    def train_step(parameters, batch):
        assert batch.data.shape == (2, 608, 800, 3)
        raise StopIteration

    namespace = {"train_step": train_step, "parameters": None}
    with pytest.raises(StopIteration):
        exec(data_block.replace("workers=4", "workers=0"), namespace)


def test_boxes_page():
    text = (ROOT / "docs/boxes.md").read_text(encoding="utf-8")
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, namespace)
    np.testing.assert_array_equal(namespace["kept"][2], 0)
    bits = np.unpackbits(namespace["bits"], axis=-1)
    np.testing.assert_array_equal(bits, namespace["pasted"])


def from_torchvision():
    return (ROOT / "docs/torchvision.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", from_torchvision(), re.DOTALL)
)
def test_from_torchvision(block):
    pytest.importorskip("flax")
    test = doctest.DocTestParser().get_doctest(block, {}, "torchvision.md", None, 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > 3
    assert result.failed == 0


def test_every_row_of_torchvision_has_an_example():
    text = from_torchvision()
    examples = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    before, _, after = text.partition("## Not here")
    tables = before + after.partition("\n## ")[2]
    rows = re.findall(r"^\| ([^|]*`[^|]*) \| ", tables, re.MULTILINE)
    assert len(rows) > 25
    for row in rows:
        names = re.findall(r"`(?:detectron2's )?(\w+)", row)
        assert any(name in examples for name in names), row


def test_no_name_of_torchvision_is_missing():
    names = pytest.importorskip("torchvision.ops").__all__
    assert {x for x in names if f"`{x}" not in from_torchvision()} == set()


def test_links_in_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(documents) > 5
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), (document, target)


@pytest.mark.parametrize("document", ["transformations.md", "reliability.md"])
def test_promises_name_their_tests(document):
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 25
    for file, function in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {function}(" in source, (file, function)


def test_quickstart(tmp_path):
    pytest.importorskip("matplotlib")
    skimage = pytest.importorskip("skimage")
    photo = tmp_path / "grey.png"
    skimage.io.imsave(photo, skimage.data.camera()[:200, :300])
    for arguments in ([], ["--image", str(photo)]):
        output = tmp_path / "picture.png"
        done = subprocess.run(
            [sys.executable, ROOT / "examples/quickstart.py"]
            + ["--output", str(output), *arguments],
            env={"MPLBACKEND": "agg", "PATH": "", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert str(output) in done.stdout
        picture = skimage.io.imread(output)
        assert picture.shape[0] > 800
        assert picture.std() > 20
        output.unlink()


def test_quickstart_on_photographs_of_ones_own(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    skimage = pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(ROOT / "examples")
    quickstart = importlib.import_module("quickstart")
    file = tmp_path / "photo.png"
    shades = skimage.data.camera()[:200, :300]
    for pixels in (shades, np.stack([shades] * 2, -1), np.stack([shades] * 4, -1)):
        skimage.io.imsave(file, pixels, check_contrast=False)
        assert quickstart.load(file)[0].shape == (200, 300, 3)
    skimage.io.imsave(file, shades[:3], check_contrast=False)
    with pytest.raises(ValueError, match="64 x 64 pixels are needed, here are 300 x 3"):
        quickstart.load(file)
    file.write_text("no image")
    with pytest.raises(ValueError, match=r"photo.png: no image that can be read: "):
        quickstart.load(file)


def test_minibatch_example(tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    skimage = pytest.importorskip("skimage")
    output = tmp_path / "minibatch.png"
    done = subprocess.run(
        [sys.executable, ROOT / "examples/minibatch.py", "--output", str(output)],
        env={"MPLBACKEND": "agg", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "3 images, 48 RoIs, 12 of them foreground" in done.stdout
    assert skimage.io.imread(output).std() > 20


def test_self_check_where_it_cannot_be_well(monkeypatch, capsys):
    from jax_roipool import __main__, backends

    monkeypatch.setattr(__main__, "_agrees", lambda op, dtype, _: dtype != "bfloat16")
    assert __main__.main() == 1
    monkeypatch.setattr(backends, "jaxlib_ffi_version", lambda: None)
    for backend in (backends.CPU, backends.CUDA):
        monkeypatch.setattr(backend, "_forced", backends.PLAIN)
    for problem, words in (("", "plain JAX, forced"), ("gone", "plain JAX: gone")):
        for backend in (backends.CPU, backends.CUDA):
            monkeypatch.setitem(vars(backend), "_loaded", (None, problem))
            monkeypatch.setattr(type(backend), "_kernels", lambda self: ())
        monkeypatch.setattr(type(backends.CPU), "isas", ())
        capsys.readouterr()
        assert __main__.main() == 1
        printed = capsys.readouterr().out
        assert f"cpu     {words}" in printed
        assert f"cuda    {words}" in printed
        assert "(XLA FFI unknown)" in printed
        assert "nothing to compare" in printed


def test_self_check():
    done = subprocess.run(
        [sys.executable, "-m", "jax_roipool"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu     kernels, " in done.stdout
    assert "all equal after" in done.stdout
    assert "DIFFER" not in done.stdout
