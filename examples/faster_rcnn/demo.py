"""All of it at small size: data, training, evaluation, control, picture."""

import contextlib
import itertools
import pathlib
import shutil
import time
from collections.abc import Iterator

from examples.faster_rcnn import config, pictures, sources
from examples.faster_rcnn.evaluate import Evaluator, report
from examples.faster_rcnn.predict import predict
from examples.faster_rcnn.step import Trainer
from examples.faster_rcnn.train import CURVES, Options, train

RUN = pathlib.Path("build/demo")
PICTURED = 8  # test scenes in the picture


def demo(
    run: pathlib.Path | None,
    picture: pathlib.Path,
    seed: int = 0,
    steps: int | None = None,
) -> int:
    """Trains from random weights, evaluates, draws; prints the seconds of each.

    Without a directory for the run the last demo's is overwritten.
    """
    pictures.check(picture)
    if run is None:
        run = RUN
        shutil.rmtree(run, ignore_errors=True)
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        print(f"=== {name}", flush=True)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    source = sources.Source("scenes", str(run.parent / "scenes"))
    with part("scenes"):
        roidb = sources.trainable(source.read(source.train_set))
        test = source.read(source.test_set)
        print(
            f"{len(roidb)} training and {len(test)} test scenes, no digit and no "
            f"photograph in both: {source.path}"
        )
    model = config.small(roidb.classes)
    changes = {} if steps is None else {"steps": steps}
    training = config.training("small", seed=seed, flips=False, **changes)
    evaluator = Evaluator(model, test)
    with part("train"):
        options = Options(
            evaluate_every=max(training.steps // 3, 1),
            checkpoint_every=max(training.steps // 2, 1),
        )
        done = train(Trainer(model, training), roidb, run, source, options, evaluator)
    if not done.finished:
        return 130
    seconds["train"] -= done.compiling
    seconds["compile"] = done.compiling
    with part("evaluate"):
        found = evaluator.detect(done.state.params)
        coco = evaluator.coco(found)
        print(report(test, found, coco))
    with part("control"):
        permuted = evaluator.coco(evaluator.detect(done.state.params, exchange=True))
        print(
            "with the pooled features of RoIs exchanged, the same weights score "
            f"AP50 {permuted['AP50']:.3f}"
        )
    with part("picture"):
        lying = (r for r in test if r.width > r.height)
        files = [pathlib.Path(str(r.image)) for r in itertools.islice(lying, PICTURED)]
        images, own = predict(model, done.state.params, files, evaluator)
        title = f"test scenes, AP50 {coco['AP50']:.2f}"
        pictures.detections(images, own, model.classes, picture, title=title)
    print("=== seconds")
    for name, value in seconds.items():
        print(f"{value:7.1f}  {name}")
    print(f"curves   {(run / CURVES).resolve()}")
    print(
        f"picture  {picture.resolve()}   AP50 {coco['AP50']:.3f}, AP75 "
        f"{coco['AP75']:.3f}, in {sum(seconds.values()):.0f} s"
    )
    return 0
