"""Trains, evaluates and uses a Faster R-CNN.

    python -m examples.faster_rcnn demo                          # all of it, small
    python -m examples.faster_rcnn train --out run               # synthetic scenes
    python -m examples.faster_rcnn train --out run --voc VOCdevkit/VOC2007
    python -m examples.faster_rcnn train --out run --coco coco
    python -m examples.faster_rcnn evaluate run
    python -m examples.faster_rcnn predict run photo.jpg -o found.png

From the root of the repository; needs the extra `detector`.
"""

import argparse
import dataclasses
import logging
import pathlib
import sys
from typing import Any

from examples.faster_rcnn.problem import Problem

DEFAULT_RUN = pathlib.Path("build/faster_rcnn")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0, 1 after a problem that is told, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        return options.command(options)
    except (Problem, OSError) as problem:  # such as a picture for no directory
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m examples.faster_rcnn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    add = _command(commands, train_command, "train", "train a detector")
    add("--out", type=pathlib.Path, default=DEFAULT_RUN, help="of checkpoints and log")
    _add_source(add)
    add("--preset", choices=("small", "vgg16"), default="small")
    add("--weights", type=pathlib.Path, help="VGG16's: .safetensors or .npz")
    add("--proposals", type=pathlib.Path, help="Fast R-CNN on these boxes: .npz")
    add("--test-proposals", type=pathlib.Path, help="those of the test images")
    add("--steps", type=positive)
    add("--images-per-batch", type=positive)
    add("--learning-rate", type=float)
    add("--short-side", type=positive, help="of resized images, in pixels")
    add("--long-side", type=positive, help="at most, in pixels")
    add("--seed", type=from_zero, default=0)
    add("--workers", type=from_zero, default=0, help="processes that read images")
    add("--resume", action="store_true", help="go on: the same command once more")
    add("--checkpoint-every", type=positive, default=500, metavar="STEPS")
    add(
        "--evaluate-every",
        type=from_zero,
        default=0,
        metavar="STEPS",
        help="score the first 100 test images so often; 0, the default: never",
    )

    add = _command(commands, evaluate_command, "evaluate", "score the test images")
    add("checkpoint", type=pathlib.Path, help="a run, or one of its checkpoints")
    _add_source(add)
    add("--test-proposals", type=pathlib.Path, help="for Fast R-CNN: .npz")
    add(
        "--permute-pooled",
        action="store_true",
        help="exchange the pooled features of RoIs: shows what the scores owe to them",
    )

    add = _command(commands, predict_command, "predict", "draw what is found in images")
    add("checkpoint", type=pathlib.Path)
    add("images", type=pathlib.Path, nargs="+", metavar="IMAGE")
    add("-o", "--output", type=pathlib.Path, required=True, help="the picture")
    add("--least-score", type=float, default=0.5)

    add = _command(commands, propose_command, "propose", "write proposals: .npz")
    add("checkpoint", type=pathlib.Path)
    _add_source(add)
    add("--set", help="of images; the training set by default")
    add("-o", "--output", type=pathlib.Path, required=True, help="the .npz file")

    add = _command(commands, demo_command, "demo", "train and evaluate at small size")
    add("--out", type=pathlib.Path, help="of the run; build/demo is overwritten")
    add("--picture", type=pathlib.Path, default=pathlib.Path("detector.png"))
    add("--seed", type=from_zero, default=0)
    add("--steps", type=positive, help="fewer for a look")
    return top


def positive(text: str) -> int:
    """The type of an argument that is an int from 1."""
    return _int_from(1, text)


def from_zero(text: str) -> int:
    """The type of an argument that is an int from 0."""
    return _int_from(0, text)


def _int_from(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}")
    return number


def _command(commands: Any, run: Any, name: str, text: str) -> Any:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=run)
    return command.add_argument


def _add_source(add: Any) -> None:
    add("--voc", type=pathlib.Path, metavar="DIR", help="such as VOCdevkit/VOC2007")
    add("--coco", type=pathlib.Path, metavar="DIR", help="with annotations/ in it")
    add("--scenes", type=pathlib.Path, metavar="DIR", help="synthetic ones, made there")
    add("--train-set", help="trainval of VOC, train2017 of COCO")
    add("--test-set", help="test of VOC, val2017 of COCO")
    add("--classes", help="of a VOC directory that has others: a,b,c")


def source_of(options: argparse.Namespace, default: Any = None) -> Any:
    """The data set that the arguments name, or the default."""
    from examples.faster_rcnn.sources import Source

    named = [n for n in ("voc", "coco", "scenes") if getattr(options, n) is not None]
    if len(named) > 1:
        raise Problem(f"--{named[0]} and --{named[1]} exclude each other")
    kind = named[0] if named else default.kind if default else "scenes"
    classes = tuple(options.classes.split(",")) if options.classes else ()
    if classes and kind != "voc":
        raise Problem("--classes are of a VOC directory: the others name theirs")
    if not named and default is not None:
        return dataclasses.replace(
            default,
            train_set=options.train_set or default.train_set,
            test_set=options.test_set or default.test_set,
            classes=classes or default.classes,
        )
    path = getattr(options, kind) or pathlib.Path("build/scenes")
    sets = {
        "voc": ("trainval", "test"),
        "coco": ("train2017", "val2017"),
        "scenes": ("train", "test"),
    }[kind]
    return Source(
        kind,
        str(path),
        options.train_set or sets[0],
        options.test_set or sets[1],
        classes,
    )


# --- Commands ----------------------------------------------------------------


def train_command(options: argparse.Namespace) -> int:
    """Trains, or goes on."""
    from examples.faster_rcnn import config, sources
    from examples.faster_rcnn.step import Trainer
    from examples.faster_rcnn.train import Options, train

    if options.out.exists() and not options.out.is_dir():
        raise Problem(f"{options.out}: no directory")
    source = source_of(options)
    roidb = sources.trainable(source.read(source.train_set))
    preset = getattr(config, options.preset)
    changes: dict[str, Any] = {"rpn": options.proposals is None}
    for name in ("short_side", "long_side"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.preset == "vgg16" and options.weights is None:
        changes["frozen_blocks"] = 0  # random ones are to learn
    model = preset(roidb.classes, **changes)
    if model.short_side > model.long_side:
        raise Problem(
            f"--short-side, {model.short_side}, must be at most --long-side, "
            f"{model.long_side}"
        )
    training = config.training(
        options.preset,
        seed=options.seed,
        flips=source.kind != "scenes",
        **{
            name: getattr(options, name)
            for name in ("steps", "images_per_batch", "learning_rate")
            if getattr(options, name) is not None
        },
    )
    if options.weights is not None and options.preset != "vgg16":
        raise Problem("--weights are VGG16's: they need --preset vgg16")
    if options.proposals is not None:
        roidb = sources.with_proposals(roidb, options.proposals)
    if training.flips:
        roidb = roidb.with_flips()
    evaluator = None
    if options.evaluate_every:
        evaluator = _evaluator(options.out, model, source, options.test_proposals)
    settings = Options(
        resume=options.resume,
        weights=options.weights,
        workers=options.workers,
        checkpoint_every=options.checkpoint_every,
        evaluate_every=options.evaluate_every,
    )
    trainer = Trainer(model, training)
    done = train(trainer, roidb, options.out, source, settings, evaluator)
    if not done.finished:
        print(
            f"stopped after step {int(done.state.step)}; the same command with "
            "--resume goes on",
            file=sys.stderr,
        )
        return 130
    print(f"trained: {options.out}")
    return 0


def _evaluator(
    run: pathlib.Path, model: Any, source: Any, proposals: pathlib.Path | None
) -> Any:
    """Of the test images, which have the classes of the model and boxes to find."""
    from examples.faster_rcnn import checkpoints, sources
    from examples.faster_rcnn.evaluate import Evaluator

    roidb = source.read(source.test_set)
    wanted = dataclasses.replace(model, classes=roidb.classes)
    checkpoints.check_model(run, model, wanted)
    if not any(record.trainable.any() for record in roidb):
        raise Problem(f"{source.path}: no image of {source.test_set} has a box to find")
    if model.rpn and proposals is not None:
        raise Problem("--test-proposals are for Fast R-CNN: this one makes its own")
    if not model.rpn:
        if proposals is None:
            raise Problem(
                "Fast R-CNN is given its proposals: name them by --test-proposals"
            )
        roidb = sources.with_proposals(roidb, proposals)
    return Evaluator(model, roidb, source.annotation_file(source.test_set))


def load(path: pathlib.Path) -> tuple[Any, Any]:
    """What a checkpoint says of itself, and its parameters."""
    import jax

    from examples.faster_rcnn import checkpoints
    from examples.faster_rcnn.step import Trainer, data_mesh

    about = checkpoints.describe(path)
    trainer = Trainer(about.model, about.training, data_mesh(jax.devices()[:1]))
    return about, checkpoints.restore(path, trainer.shapes).params


def evaluate_command(options: argparse.Namespace) -> int:
    """Prints the table."""
    from examples.faster_rcnn.evaluate import report
    from examples.faster_rcnn.sources import Source

    about, params = load(options.checkpoint)
    source = source_of(options, Source.from_json(about.data))
    evaluator = _evaluator(
        options.checkpoint, about.model, source, options.test_proposals
    )
    found = evaluator.detect(params, exchange=options.permute_pooled)
    print(report(evaluator.roidb, found, evaluator.coco(found)))
    return 0


def predict_command(options: argparse.Namespace) -> int:
    """Draws a picture."""
    from examples.faster_rcnn import pictures
    from examples.faster_rcnn.predict import predict

    pictures.check(options.output)
    about, params = load(options.checkpoint)
    if not about.model.rpn:
        raise Problem(f"{options.checkpoint}: a Fast R-CNN proposes no regions itself")
    images, found = predict(about.model, params, options.images)
    pictures.detections(
        images, found, about.model.classes, options.output, least=options.least_score
    )
    for file, own in zip(options.images, found, strict=True):
        for i in pictures.shown(own, options.least_score):
            name, corners = about.model.classes[own.classes[i]], own.boxes[i]
            place = " ".join(f"{v:.1f}" for v in corners)
            print(f"{file}: {name} {own.scores[i]:.3f} at {place}")
    print(f"picture: {options.output.resolve()}")
    return 0


def propose_command(options: argparse.Namespace) -> int:
    """Writes what the region proposal network of a checkpoint proposes."""
    from examples.faster_rcnn import detect, pictures, sources
    from jax_roipool.boxes import clip
    from jax_roipool.data import ImageError

    if options.output.suffix != ".npz":
        raise Problem(f"{options.output}: the name of proposals ends in .npz")
    pictures.check_parent(options.output)
    about, params = load(options.checkpoint)
    if not about.model.rpn:
        raise Problem(f"{options.checkpoint}: a Fast R-CNN proposes no regions itself")
    source = source_of(options, sources.Source.from_json(about.data))
    roidb = source.read(options.set or source.train_set)
    layer = sources.test_layer(roidb, about.model, 20)
    try:
        found = {
            roidb[i].id: clip(boxes, roidb.heights[i], roidb.widths[i], inclusive=True)
            for i, boxes in detect.region_proposals(about.model, params, layer)
        }
    except ImageError as error:
        raise Problem(str(error)) from error
    sources.save_proposals(found, options.output)
    print(f"proposals: {options.output.resolve()}")
    return 0


def demo_command(options: argparse.Namespace) -> int:
    """All of it at small size, from random weights, with the seconds of each part."""
    from examples.faster_rcnn.demo import demo

    return demo(options.out, options.picture, options.seed, options.steps)


if __name__ == "__main__":
    sys.exit(main())
