"""The detector example: training that repeats, checkpoints, one sentence for errors.

One compiled step serves all tests of training here.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("tests.detector.packages")

from examples.faster_rcnn import __main__ as cli
from examples.faster_rcnn import checkpoints, config, scenes, sources
from examples.faster_rcnn import train as training_module
from examples.faster_rcnn.demo import demo
from examples.faster_rcnn.detect import Runner, given_proposals, suppressed
from examples.faster_rcnn.evaluate import Evaluator, report
from examples.faster_rcnn.problem import Problem
from examples.faster_rcnn.step import Trainer, data_mesh
from examples.faster_rcnn.train import Options, read_log, train
from jax_roipool.data import ImageError, Minibatch, Record, Roidb, WorkerError
from jax_roipool.data.images import resized_size, scale_for

# One worker of pytest-xdist: the tests share compiled programs.
pytestmark = pytest.mark.xdist_group("test_detector_training.py")

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "scenes"
    return sources.Source("scenes", str(path), scenes=(8, 4))


@pytest.fixture(scope="module")
def roidb(source):
    return source.read("train")[::2]  # those that lie: one size to compile


@pytest.fixture(scope="module")
def trainer(roidb):
    model = config.small(roidb.classes)
    training = config.training(
        "small", steps=STEPS, images_per_batch=2, seed=3, flips=False, warmup=2
    )
    return Trainer(model, training, data_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def unbroken(trainer, roidb, source, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "unbroken"
    return run, train(trainer, roidb, run, source, Options())


def losses(run):
    return [{k: v for k, v in e.items() if k != "seconds"} for e in read_log(run)]


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_it_learns_something(unbroken, trainer):
    run, done = unbroken
    assert done.finished
    before = trainer.init()
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), before.params, done.state.params
    )
    assert min(jax.tree.leaves(moved)) > 0  # every array of every part
    assert (run / training_module.CURVES).stat().st_size > 1000


def test_the_same_seed_gives_the_same_bits(unbroken, trainer, roidb, source, tmp_path):
    again = train(trainer, roidb, tmp_path / "again", source, Options())
    assert losses(tmp_path / "again") == losses(unbroken[0])
    equal(again.state, unbroken[1].state)


@pytest.mark.nightly
def test_ctrl_c_saves_and_a_resumed_run_equals_an_unbroken_one(
    unbroken, trainer, roidb, source, tmp_path, monkeypatch
):
    step = Trainer.__call__
    called = []

    def interrupted(self, state, batch):
        called.append(None)
        if len(called) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, state, batch)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "__call__", interrupted)
    run = tmp_path / "run"
    stopped = train(trainer, roidb, run, source, Options())
    assert not stopped.finished
    assert int(stopped.state.step) == 3
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()

    with pytest.raises(Problem, match="holds a run already: --resume"):
        train(trainer, roidb, run, source, Options())
    done = train(trainer, roidb, run, source, Options(resume=True))
    equal(done.state, unbroken[1].state)
    assert losses(run)[-1]["step"] == STEPS
    # What cannot be gone on with.
    other = Trainer(
        trainer.config,
        dataclasses.replace(trainer.training, learning_rate=1.0),
        trainer.mesh,
    )
    with pytest.raises(Problem, match="its learning_rate is 0"):
        train(other, roidb, run, source, Options(resume=True))
    with pytest.raises(Problem, match="made with other data"):
        train(trainer, roidb[:3], run, source, Options(resume=True))


def test_a_step_is_compiled_once_per_size_and_calls_nothing_back(trainer, unbroken):
    assert len(trainer.programs) == 1
    for program in trainer.programs.values():
        text = program.as_text()
        assert "jax_roipool_roi_pool_argmax" in text
        assert "callback" not in text


def test_images_of_weight_zero_count_for_nothing(trainer, roidb, unbroken):
    layer = sources.training_layer(roidb, trainer.config, trainer.training)
    batch = next(layer)
    weights = np.float32([1, 0])
    other = np.array(batch.data)
    other[1] = 255 - other[1]
    boxes = np.array(batch.gt_boxes)
    boxes[1, :, :4] += 1
    one = batch._replace(image_weights=weights)
    two = one._replace(data=other, gt_boxes=boxes)
    states = [trainer(trainer.init(), b) for b in (one, two)]
    equal(*states)


@pytest.fixture(scope="module")
def evaluator(trainer, source):
    return Evaluator(trainer.config, source.read("test")[::2], images_per_batch=2)


def test_detections_and_their_report(unbroken, evaluator):
    test, params = evaluator.roidb, unbroken[1].state.params
    found = evaluator.detect(params)
    assert sorted(found) == [0, 1]
    for i, own in found.items():
        last = np.float32([test[i].width - 1, test[i].height - 1] * 2)
        assert (own.boxes >= 0).all()
        assert (own.boxes <= last).all()
        assert (np.diff(own.scores) <= 0).all()
        assert set(own.classes) <= set(range(1, 11))
    assert "AP50 11-point" in report(test, found, evaluator.coco(found))
    other = evaluator.detect(params, exchange=True)
    assert any(
        (found[i].scores != other[i].scores[: len(found[i].scores)]).any()
        for i in found
    )


@pytest.mark.parametrize("size", [(2000, 3000), (375, 500), (31, 77)])
def test_detections_reach_the_last_pixel_and_not_beyond(trainer, size):
    """Of images that are made smaller or larger, whose new size is rounded."""
    height, width = size
    image = trainer.config.images
    scale = scale_for(height, width, image.scales[0], image.max_size)
    info = np.float32([*resized_size(height, width, scale), scale])
    rois = np.float32([[0, 0, info[1] - 1, info[0] - 1]])
    classes = len(trainer.config.classes)
    deltas = np.tile(np.float32([0, 0, 5, 5]), (1, classes))  # ever so large
    logits = np.zeros((1, classes), np.float32)
    logits[0, 3] = 9

    class Once(Runner):
        def compile(self, *_):
            found = suppressed(self.config, logits, deltas, rois, np.bool_([1]), info)
            return lambda *_: jax.tree.map(lambda x: x[None], found)

    record = Record("1", "1.jpg", height, width, [], [])
    roidb = Roidb.from_records([record], trainer.config.classes[1:])
    batch = Minibatch(None, info[None], np.ones(1), np.int32([0]))
    ((index, own),) = Once(trainer.config)(None, [batch], roidb)
    assert (index, own.classes.tolist()) == (0, [3])
    (x1, y1, x2, y2) = own.boxes[0]
    assert (x1, y1) == (0, 0)
    assert width - 1 - 1 / scale <= x2 <= width - 1
    assert height - 1 - 1 / scale <= y2 <= height - 1


# --- What goes wrong in between ------------------------------------------------


class Wrapped:
    """A data layer whose `next` fails at some calls."""

    def __init__(self, layer, fails):
        self.layer, self.fails, self.calls = layer, fails, 0

    def __next__(self):
        self.calls += 1
        if self.calls in self.fails:
            raise self.fails[self.calls]
        return next(self.layer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.layer.close()

    def __getattr__(self, name):
        return getattr(self.layer, name)


def with_failures(monkeypatch, fails):
    make = sources.training_layer
    monkeypatch.setattr(
        sources, "training_layer", lambda *a, **k: Wrapped(make(*a, **k), fails)
    )


def test_a_dead_worker_is_replaced(
    unbroken, trainer, roidb, source, tmp_path, monkeypatch
):
    with_failures(monkeypatch, {3: WorkerError("it ended")})
    done = train(trainer, roidb, tmp_path / "run", source, Options())
    equal(done.state, unbroken[1].state)


@pytest.mark.parametrize(
    "fails",
    [{4: ImageError("7.jpg: broken")}, {4: WorkerError("a"), 5: WorkerError("7.jpg")}],
)
def test_what_was_trained_before_a_failure_is_saved(
    unbroken, trainer, roidb, source, tmp_path, monkeypatch, fails
):
    run = tmp_path / "run"
    with_failures(monkeypatch, fails)
    with pytest.raises(Problem, match=r"7.jpg"):
        train(trainer, roidb, run, source, Options())
    monkeypatch.undo()
    assert checkpoints.describe(run).step == 3
    done = train(trainer, roidb, run, source, Options(resume=True))
    equal(done.state, unbroken[1].state)


def test_an_evaluation_that_fails_comes_after_the_checkpoint(
    trainer, roidb, source, tmp_path
):
    class Failing(Evaluator):
        def __call__(self, *_):
            raise Problem("a broken test image")

    evaluator = Failing(trainer.config, source.read("test")[:1], images_per_batch=1)
    evaluator.compile = lambda _: None
    options = Options(evaluate_every=STEPS)
    with pytest.raises(Problem, match="a broken test image"):
        train(trainer, roidb, tmp_path / "run", source, options, evaluator)
    assert checkpoints.describe(tmp_path / "run").step == STEPS


def test_what_is_not_finite_is_not_saved(
    trainer, roidb, source, tmp_path, monkeypatch, unbroken
):
    state = unbroken[1].state
    assert trainer.is_finite(state)
    for bad in (np.nan, np.inf):
        params = jax.tree.map(np.array, state.params)
        params["scores"]["bias"][0] = bad
        assert not trainer.is_finite(state._replace(params=params))
    good = trainer.is_finite
    monkeypatch.setattr(trainer, "is_finite", lambda s: int(s.step) < 4 and good(s))
    with pytest.raises(Problem, match="no longer finite at step 4, and not saved"):
        train(trainer, roidb, tmp_path / "r", source, Options(checkpoint_every=2))
    assert checkpoints.describe(tmp_path / "r").step == 2


# --- Checkpoints -------------------------------------------------------------


def test_checkpoints_say_what_they_are(unbroken, trainer, source):
    about = checkpoints.describe(unbroken[0])
    assert about.model == trainer.config
    assert about.training == trainer.training
    assert about.step == STEPS
    assert sources.Source.from_json(about.data) == source
    place = unbroken[0] / "checkpoints" / str(STEPS)
    state = checkpoints.restore(place, trainer.shapes)
    equal(state, unbroken[1].state)


def test_checkpoints_of_others_are_refused(unbroken, trainer):
    run, model = unbroken[0], trainer.config
    about = checkpoints.describe(run)
    other = dataclasses.replace(model, classes=("__background__", "cat"))
    with pytest.raises(Problem, match=r"its classes are 0, 1, .*of the data are cat"):
        checkpoints.check_model(run, about.model, other)
    other = dataclasses.replace(model, backbone="vgg16")
    with pytest.raises(Problem, match="another model: its backbone is small"):
        checkpoints.check_model(run, about.model, other)


def test_a_damaged_checkpoint_is_told_in_one_sentence(unbroken, tmp_path):
    """In a process of its own, as users see it: Orbax leaves threads behind."""
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    files = (p for p in (run / "checkpoints").rglob("*") if p.is_file())
    max(files, key=lambda file: file.stat().st_size).write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "examples.faster_rcnn", "evaluate", str(run)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rf"error: .*{STEPS}: the checkpoint is damaged: state/.* has changed\n",
        done.stderr,
    )


@pytest.mark.parametrize("item", ["about", "state"])
def test_no_damage_to_a_checkpoint_goes_unseen(unbroken, trainer, tmp_path, item):
    """One bit of each of its files in turn."""
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    files = [p for p in (run / f"checkpoints/{STEPS}/{item}").rglob("*") if p.is_file()]
    read = {
        "about": lambda: checkpoints.describe(run),
        "state": lambda: checkpoints.restore(run, trainer.shapes),
    }[item]
    for file in files:
        whole = file.read_bytes()
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 1
        for found in (broken, whole[:-1], None):
            if found is None:
                file.unlink()
            else:
                file.write_bytes(found)
            with pytest.raises(Problem, match=rf"checkpoint .*{file.name}"):
                read()
        file.write_bytes(whole)
    assert checkpoints.describe(run).step == STEPS
    equal(checkpoints.restore(run, trainer.shapes), unbroken[1].state)


def test_half_a_checkpoint_is_none(unbroken, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    step = run / "checkpoints" / str(STEPS)
    (step / checkpoints.SUMS).unlink()
    with pytest.raises(Problem, match="half a checkpoint"):
        checkpoints.describe(step)
    with pytest.raises(Problem, match="no whole checkpoint"):
        checkpoints.describe(run)
    step.rename(step.with_name(f"{STEPS}.orbax-checkpoint-tmp"))
    with pytest.raises(Problem, match="no whole checkpoint"):
        checkpoints.describe(run)


FULL = """
import pathlib, resource, signal, sys
import jax.numpy as jnp
from examples.faster_rcnn import checkpoints, config
from examples.faster_rcnn.problem import Problem
from examples.faster_rcnn.step import TrainState

run = pathlib.Path(sys.argv[1])
model = config.small(("__background__", "cat"))
def save(step):
    state = TrainState({"w": jnp.arange(2.0**18) * 1.7}, (), jnp.int32(step))
    about = checkpoints.Description(model, config.TrainConfig(), step, {}, {})
    return checkpoints.save(run, state, about)
save(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
try:
    save(2)
except Problem as problem:
    print(problem)
print(checkpoints.find(run)[1], sorted(p.name for p in (run / "checkpoints").iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits files as Linux does")
def test_a_full_disk_leaves_what_was_there(tmp_path):
    """Files may not grow, which is how a disk that is full looks to a writer."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told, left = done.stdout.splitlines()
    assert "2: the checkpoint cannot be written, and is not there: " in told
    assert left == "1 ['1']"


# --- One sentence for what a user can put right -------------------------------


def told(capsys, *arguments):
    """What a command says on failing; it is one sentence and no traceback."""
    code = cli.main([str(a) for a in arguments])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 1
    assert len(error) == 1, error
    assert error[0].startswith("error: ")
    return error[0]


def make_voc(root, names, image=b"no image"):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/trainval.txt").write_text("".join(f"{n}\n" for n in names))
    drawn = [scenes.Drawn("cat", (0, 0, 9, 9))]
    for name in names:
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(image)
        text = scenes.annotation(name, (60, 100), drawn)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def test_data_that_is_none(capsys, tmp_path):
    out = ("--out", tmp_path / "run", "--steps", 1)
    missing = told(capsys, "train", *out, "--voc", tmp_path / "nowhere")
    assert "trainval.txt" in missing
    root = make_voc(tmp_path / "empty", [])
    assert "trainval.txt" in told(capsys, "train", *out, "--voc", root)
    root = make_voc(tmp_path / "voc", ["1"])
    (root / "Annotations/1.xml").write_text(scenes.annotation("1", (60, 100), []))
    assert "no image has a box" in told(capsys, "train", *out, "--voc", root)
    assert not (tmp_path / "run").exists()
    coco = told(capsys, "train", *out, "--coco", tmp_path)
    assert "instances_train2017.json" in coco
    both = told(capsys, "train", *out, "--coco", tmp_path, "--voc", root)
    assert "exclude each other" in both


def test_an_image_that_is_none(capsys, tmp_path, trainer, monkeypatch, unbroken):
    for name in ("init", "compile"):  # it comes to no step
        monkeypatch.setattr(Trainer, name, lambda *_: None)
    root = make_voc(tmp_path / "voc", ["1"])
    words = told(capsys, "train", "--out", tmp_path / "r", "--steps", 1, "--voc", root)
    assert "1.jpg: " in words
    (tmp_path / "text.png").write_text("no image")
    words = told(
        capsys, "predict", unbroken[0], tmp_path / "text.png", "-o", tmp_path / "p.png"
    )
    assert "text.png: " in words
    assert not (tmp_path / "p.png").exists()


def test_commands_on_checkpoints_that_are_none(capsys, tmp_path, unbroken, monkeypatch):
    assert "no such checkpoint" in told(capsys, "evaluate", tmp_path / "nowhere")
    assert "no whole checkpoint" in told(capsys, "evaluate", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 99)
        words = told(capsys, "evaluate", unbroken[0])
        assert "its format is 1, here it is 99" in words
    root = make_voc(tmp_path / "voc", ["1"])
    shutil.copy(root / "ImageSets/Main/trainval.txt", root / "ImageSets/Main/test.txt")
    words = told(capsys, "evaluate", unbroken[0], "--voc", root, "--classes", "cat")
    assert "its classes are 0, 1, 2" in words
    assert "those of the data are cat" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--steps", 0), "--steps: must be a whole number from 1"),
        (("train", "--images-per-batch", -2), "--images-per-batch: must be a whole"),
        (("train", "--checkpoint-every", 0), "--checkpoint-every: must be a whole"),
        (("train", "--evaluate-every", -1), "--evaluate-every: must be a whole"),
        (("train", "--workers", "two"), "--workers: must be a whole number from 0"),
        (("train", "--seed", -1), "--seed: must be a whole number from 0"),
    ],
)
def test_numbers_that_are_none(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        cli.main([str(a) for a in arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.nightly
def test_options_that_do_not_fit(capsys, tmp_path, unbroken, source):
    run, nowhere = unbroken[0], tmp_path / "nowhere"
    scene = ("--scenes", source.path)
    (tmp_path / "file").touch()
    for arguments, words in (
        (("train", "--out", tmp_path / "file"), "file: no directory"),
        (("train", "--out", nowhere, *scene, "--classes", "a"), "--classes are of a"),
        (
            ("train", "--out", nowhere, *scene, "--short-side", 600),
            "--short-side, 600, must be at most --long-side, 160",
        ),
        (("evaluate", run, "--test-set", "nosuch"), "nosuch.txt"),
        (("evaluate", run, "--classes", "a"), "--classes are of a VOC directory"),
        (("evaluate", run, "--test-proposals", nowhere), "are for Fast R-CNN"),
        (("propose", run, "--train-set", "nosuch", "-o", tmp_path / "p.npz"), "nosuch"),
        (("propose", run, "-o", tmp_path / "p"), "the name of proposals ends in .npz"),
        (("propose", run, "-o", nowhere / "p.npz"), "there is no directory"),
        (("predict", run, "x.png", "-o", tmp_path / "p.txt"), "a picture's name ends"),
        (("predict", run, "x.png", "-o", nowhere / "p.png"), "there is no directory"),
        (("demo", "--picture", nowhere / "p.png"), "there is no directory"),
    ):
        assert words in told(capsys, *arguments)
    assert not nowhere.exists()
    assert checkpoints.find(run) == checkpoints.find(run / "checkpoints")
    same = tmp_path / "checkpoints"
    shutil.copytree(run, same)
    assert checkpoints.find(same) == (same, STEPS)


def test_a_demo_deletes_nothing_of_others(unbroken, source, tmp_path, monkeypatch):
    run = unbroken[0]
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    few = sources.Source
    monkeypatch.setattr(
        sources, "Source", lambda *_: few("scenes", source.path, scenes=source.scenes)
    )
    monkeypatch.setattr(Trainer, "init", lambda *_: pytest.fail("it begins"))
    with pytest.raises(Problem, match="holds a run already"):
        demo(run, tmp_path / "p.png", steps=1)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_proposals_in_a_file(roidb, tmp_path):
    found = {"file": np.ones((2, 4), np.float32), "a/b": np.zeros((0, 4), np.float32)}
    sources.save_proposals(found, tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as archive:
        equal({name: archive[name] for name in archive.files}, found)
    whole = (tmp_path / "p.npz").read_bytes()
    for content in (whole[:-30], b"", b"no archive"):
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(Problem, match=r"p.npz: proposals cannot be read: "):
            sources.with_proposals(roidb, tmp_path / "p.npz")


def test_weights_and_proposals_that_do_not_fit(capsys, tmp_path):
    data = ("--out", tmp_path / "run", "--voc", make_voc(tmp_path / "voc", ["1"]))
    data += ("--classes", "cat")
    words = told(capsys, "train", *data, "--weights", tmp_path / "w.npz")
    assert "need --preset vgg16" in words
    np.savez(tmp_path / "p.npz", other=np.zeros((0, 4)))
    words = told(capsys, "train", *data, "--proposals", tmp_path / "p.npz")
    assert "no proposals for image '1'" in words


# --- Fast R-CNN --------------------------------------------------------------


def test_given_proposals_take_the_place_of_the_network(trainer, roidb, tmp_path):
    file = tmp_path / "p.npz"
    np.savez(file, **{r.id: r.boxes + np.float32(0.25) for r in roidb})
    given = sources.with_proposals(roidb, file)
    model = dataclasses.replace(trainer.config, rpn=False)
    fast = Trainer(model, trainer.training, trainer.mesh)
    batch = next(sources.training_layer(given, model, trainer.training))
    assert (np.asarray(batch.labels) > 0).any()
    assert "proposer" not in fast.shapes.params
    _, metrics = jax.eval_shape(fast.step, fast.shapes, batch)
    assert set(metrics) == {"loss", "class", "box"}
    rois, valid = given_proposals(batch, given)
    for i, k in enumerate(batch.image_index):
        own = given[int(k)].proposals * batch.im_info[i, 2]
        np.testing.assert_array_equal(rois[i][valid[i]], own)


# --- All of it, nightly ------------------------------------------------------


@pytest.mark.nightly
def test_the_demo_reaches_its_goal(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert demo(tmp_path / "run", picture) == 0
    text = capsys.readouterr().out
    ap50, ap75 = map(
        float, re.search(r"AP50 ([\d.]+), AP75 ([\d.]+), in", text).groups()
    )
    assert ap50 >= 0.85
    assert ap75 >= 0.50
    assert float(re.search(r"the same weights score AP50 ([\d.]+)", text)[1]) < 0.20
    assert picture.stat().st_size > 10_000


@pytest.mark.nightly
def test_fast_rcnn_learns_from_the_proposals_of_faster_rcnn(tmp_path, capsys):
    scene, run, fast = (tmp_path / name for name in ("scenes", "run", "fast"))

    def command(*arguments):
        assert cli.main([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    command("train", "--out", run, "--scenes", scene, "--steps", 1200)
    for name in ("train", "test"):
        command("propose", run, "--set", name, "-o", tmp_path / f"{name}.npz")
    given = ("--test-proposals", tmp_path / "test.npz")
    train = ("--proposals", tmp_path / "train.npz", *given, "--steps", 1200)
    command("train", "--out", fast, "--scenes", scene, *train)
    table = command("evaluate", fast, *given)
    assert float(re.search(r"AP50 ([\d.]+)", table)[1]) > 0.5


def make_coco(root, scene):
    """The scenes of a VOC directory as one of COCO's form, with gaps in its ids."""
    for split in ("train2017", "val2017"):
        roidb = scene.read("train" if split == "train2017" else "test")
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for i, record in enumerate(roidb):
            name = f"{i}.jpg"
            shutil.copy(record.image, root / split / name)
            size = {"height": record.height, "width": record.width}
            images.append({"id": 7 * i + 3, "file_name": name, **size})
            for (x1, y1, x2, y2), k in zip(record.boxes, record.classes, strict=True):
                box = [float(v) for v in (x1, y1, x2 - x1 + 1, y2 - y1 + 1)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 7 * i + 3,
                        "category_id": 5 * int(k),
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 5 * k, "name": f"digit {k}"} for k in range(1, 11)]
        content = {"images": images, "annotations": annotations, "info": {}}
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**content, "categories": categories}))
    return root


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_commands_on_directories_of_ones_own(kind, source, tmp_path, capsys):
    source.read("train")
    if kind == "voc":
        data = ("--voc", source.path, "--train-set", "train", "--test-set", "test")
        data += ("--classes", ",".join(scenes.CLASSES))
    else:
        data = ("--coco", make_coco(tmp_path / "coco", source))
    train = ("train", "--out", tmp_path / "run", *data, "--images-per-batch", 1)
    run, picture = tmp_path / "run", tmp_path / "picture.png"
    for arguments, words in (
        ((*train, "--steps", 12, "--evaluate-every", 6), "trained: "),
        (("evaluate", run), "COCO  AP 0."),
        (("evaluate", run / "checkpoints/12", "--permute-pooled"), "(4 images)"),
        (
            ("predict", run, source.read("test")[0].image, "-o", picture),
            f"picture: {picture}",
        ),
    ):
        assert cli.main([str(a) for a in arguments]) == 0
        assert words in capsys.readouterr().out
    assert len(read_log(run)) == 4  # losses and AP, twice each
    about = checkpoints.describe(run)
    assert about.training.flips
    assert len(about.model.classes) == 11
