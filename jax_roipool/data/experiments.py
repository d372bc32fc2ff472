"""Experiments of py-faster-rcnn: its YAML files as configurations of ours."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from jax_roipool.data.checks import instance, path
from jax_roipool.data.config import LayerConfig
from jax_roipool.data.images import ImageConfig, Transport
from jax_roipool.data.roidb import Roidb
from jax_roipool.data.sampling import SamplingConfig


class Experiment(NamedTuple):
    """What a py-faster-rcnn file says of the data layer, by `read_experiment`.

    Attributes:
      config: For `RoIDataLayer`.
      seed: For `RoIDataLayer` (`RNG_SEED`).
      use_flipped: Whether to call `roidb.with_flips()` (`TRAIN.USE_FLIPPED`).
      use_prefetch: Whether there are worker processes (`TRAIN.USE_PREFETCH`).

    Example:
      >>> from jax_roipool.data import Experiment, LayerConfig
      >>> Experiment(LayerConfig(), 3, True, False).seed
      3
    """

    config: LayerConfig
    seed: int
    use_flipped: bool
    use_prefetch: bool


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Kind(NamedTuple):
    words: str
    fits: Callable[[Any], bool]


def _list_of(fits: Callable[[Any], bool], count: int | None = None) -> Any:
    return lambda v: (
        isinstance(v, list)
        and len(v) == (count or max(len(v), 1))
        and all(map(fits, v))
    )


_BOOL = _Kind("True or False", lambda v: isinstance(v, bool))
_INT = _Kind("a whole number", _is_int)
_NUMBER = _Kind("a number", _is_number)
_INTS = _Kind("a list of whole numbers", _list_of(_is_int))
_THREE = _Kind("three numbers", _list_of(_is_number, 3))
_FOUR = _Kind("four numbers", _list_of(_is_number, 4))
_ANY = _Kind("anything", lambda v: True)

# The keys of the data layer under TRAIN: kind, and the original's value.
_TRAIN = {
    "SCALES": (_INTS, [600]),
    "MAX_SIZE": (_INT, 1000),
    "IMS_PER_BATCH": (_INT, 2),
    "BATCH_SIZE": (_INT, 128),
    "FG_FRACTION": (_NUMBER, 0.25),
    "FG_THRESH": (_NUMBER, 0.5),
    "BG_THRESH_HI": (_NUMBER, 0.5),
    "BG_THRESH_LO": (_NUMBER, 0.1),
    "USE_FLIPPED": (_BOOL, True),
    "BBOX_REG": (_BOOL, True),
    "BBOX_THRESH": (_NUMBER, 0.5),
    "USE_PREFETCH": (_BOOL, False),
    "BBOX_NORMALIZE_TARGETS": (_BOOL, True),
    "BBOX_INSIDE_WEIGHTS": (_FOUR, [1.0, 1.0, 1.0, 1.0]),
    "BBOX_NORMALIZE_TARGETS_PRECOMPUTED": (_BOOL, False),
    "BBOX_NORMALIZE_MEANS": (_FOUR, [0.0, 0.0, 0.0, 0.0]),
    "BBOX_NORMALIZE_STDS": (_FOUR, [0.1, 0.1, 0.2, 0.2]),
    "ASPECT_GROUPING": (_BOOL, True),
    "HAS_RPN": (_BOOL, False),
}
_TOP = {
    "PIXEL_MEANS": (_THREE, [102.9801, 115.9465, 122.7717]),
    "RNG_SEED": (_INT, 3),
}
# Those of its other parts: the solver, the RPN, testing, folders.
_OTHER_TRAIN = dict.fromkeys(
    [
        "SNAPSHOT_ITERS",
        "SNAPSHOT_INFIX",
        "PROPOSAL_METHOD",
        "USE_ALL_GT",
        "RPN_POSITIVE_OVERLAP",
        "RPN_NEGATIVE_OVERLAP",
        "RPN_CLOBBER_POSITIVES",
        "RPN_FG_FRACTION",
        "RPN_BATCHSIZE",
        "RPN_NMS_THRESH",
        "RPN_PRE_NMS_TOP_N",
        "RPN_POST_NMS_TOP_N",
        "RPN_MIN_SIZE",
        "RPN_BBOX_INSIDE_WEIGHTS",
        "RPN_POSITIVE_WEIGHT",
    ],
    (_ANY, None),
)
_OTHER_TOP = dict.fromkeys(
    [
        "TEST",
        "DEDUP_BOXES",
        "EPS",
        "ROOT_DIR",
        "DATA_DIR",
        "MODELS_DIR",
        "MATLAB",
        "EXP_DIR",
        "USE_GPU_NMS",
        "GPU_ID",
    ],
    (_ANY, None),
)

_SAMPLING = {
    "IMS_PER_BATCH": "images_per_batch",
    "BATCH_SIZE": "batch_rois",
    "FG_FRACTION": "fg_fraction",
    "FG_THRESH": "fg_threshold",
    "BG_THRESH_HI": "bg_threshold_high",
    "BG_THRESH_LO": "bg_threshold_low",
    "BBOX_REG": "bbox_reg",
    "BBOX_THRESH": "bbox_threshold",
    "BBOX_INSIDE_WEIGHTS": "bbox_inside_weights",
}


def _checked(
    file: str, prefix: str, found: Any, known: dict[str, tuple[_Kind, Any]]
) -> dict[str, Any]:
    """The values of a table of the file, the original's where it is silent."""
    if not isinstance(found, dict):
        raise ValueError(
            f"{file}: {prefix.rstrip('.') or 'the file'} must be a table of keys"
        )
    values = {key: value for key, (_, value) in known.items()}
    for key, value in found.items():
        if key not in known:
            raise ValueError(f"{file}: {prefix}{key} is no key of py-faster-rcnn")
        kind = known[key][0]
        if not kind.fits(value):
            raise ValueError(
                f"{file}: {prefix}{key} must be {kind.words}, got {value!r:.80}"
            )
        values[key] = value
    return values


def read_experiment(
    file: str | os.PathLike[str],
    *,
    roidb: Roidb | None = None,
    transport: Transport = "float32",
) -> Experiment:
    """Reads an experiment of py-faster-rcnn (`experiments/cfgs/*.yml`).

    What the file leaves out has the original's value; so channels are BGR. Keys of
    other parts (the solver's, the RPN's, `TEST`) are passed over. docs/data.md has
    a table of all keys.

    Args:
      file: YAML, read by PyYAML's safe loader: no tag makes an object.
      roidb: Where the file has neither `HAS_RPN` nor
        `BBOX_NORMALIZE_TARGETS_PRECOMPUTED` (the original's default), means and
        stds of the box targets are this roidb's; it has proposals.
      transport: As in `ImageConfig`; the original has no key for it.

    Returns:
      The configuration and what else the file says of the data layer.

    Raises:
      FileNotFoundError: There is no such file.
      TypeError: `file` is no path, or `roidb` no roidb.
      ValueError: It is not YAML, has a key twice or one that the original does not
        know, or a value that is none for its key (file and key are named); or
        `roidb` is needed.

    Example:
      >>> import pathlib, tempfile
      >>> from jax_roipool.data import read_experiment
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "faster_rcnn_end2end.yml"
      >>> _ = file.write_text('''
      ... EXP_DIR: faster_rcnn_end2end
      ... TRAIN:
      ...   HAS_RPN: True
      ...   IMS_PER_BATCH: 1
      ...   BG_THRESH_LO: 0.0
      ... ''')
      >>> experiment = read_experiment(file)
      >>> experiment.config.has_rpn, experiment.config.batch_size, experiment.seed
      (True, 1, 3)
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            "read_experiment needs PyYAML: pip install 'jax_roipool[data]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """The safe loader, which would keep the last of equal keys."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set[str]()
            for key, _ in node.value:
                # "<<" may stand there often; what is no text is no key of ours.
                if not isinstance(key.value, str) or key.tag.endswith(":merge"):
                    continue
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands there twice",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
            return node

    file = path("file", file)
    if roidb is not None:
        instance("roidb", roidb, Roidb)
    with open(file, "rb") as stream:
        try:
            found = yaml.load(stream, Loader)
        # A stack of brackets overflows the parser's.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not YAML: {error}") from None
    found = {} if found is None else found
    if isinstance(found, dict):
        means = found.get("PIXEL_MEANS")
        # The original's own array is [[[b, g, r]]].
        while isinstance(means, list) and len(means) == 1:
            means = found["PIXEL_MEANS"] = means[0]
    top = _checked(file, "", found, _TOP | _OTHER_TOP | {"TRAIN": (_ANY, {})})
    train = {} if top["TRAIN"] is None else top["TRAIN"]
    train = _checked(file, "TRAIN.", train, _TRAIN | _OTHER_TRAIN)
    box_means, box_stds = train["BBOX_NORMALIZE_MEANS"], train["BBOX_NORMALIZE_STDS"]
    if not train["BBOX_NORMALIZE_TARGETS"]:
        box_means, box_stds = [0.0] * 4, [1.0] * 4
    elif not (
        train["HAS_RPN"]
        or train["BBOX_NORMALIZE_TARGETS_PRECOMPUTED"]
        or not train["BBOX_REG"]
    ):
        if roidb is None:
            raise ValueError(
                f"{file}: TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED is False, so "
                "statistics of the roidb are needed: pass it as roidb"
            )
        statistics = roidb.target_statistics(overlap=train["BBOX_THRESH"])
        box_means, box_stds = statistics.means, statistics.stds
    try:
        config = LayerConfig(
            images=ImageConfig(
                scales=tuple(train["SCALES"]),
                max_size=train["MAX_SIZE"],
                means=tuple(top["PIXEL_MEANS"]),
                channels="BGR",
                transport=transport,
            ),
            sampling=SamplingConfig(
                bbox_means=box_means,
                bbox_stds=box_stds,
                **{name: train[key] for key, name in _SAMPLING.items()},
            ),
            has_rpn=train["HAS_RPN"],
            aspect_grouping=train["ASPECT_GROUPING"],
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    return Experiment(
        config, top["RNG_SEED"], train["USE_FLIPPED"], train["USE_PREFETCH"]
    )
