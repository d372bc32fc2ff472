"""Fast R-CNN's data layer: records, sampling of RoIs, images, minibatches.

Boxes are those of Fast R-CNN: corners are pixels, `inclusive=True` for the functions
of `jax_roipool.boxes`.

>>> from jax_roipool import data
>>> data.Record("7", "7.jpg", height=60, width=100, boxes=[[0, 3, 4, 8]], classes=[1])
<Record '7': 7.jpg, 100 x 60, 1 boxes, no proposals>

Records, `read_coco` and sampling need NumPy and JAX alone. `read_voc` needs the
packages of `pip install 'jax_roipool[data]'`, and so do images, minibatches and the
layer, which are imported when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jax_roipool.data.readers import VOC_CLASSES as VOC_CLASSES
from jax_roipool.data.readers import read_coco as read_coco
from jax_roipool.data.readers import read_voc as read_voc
from jax_roipool.data.roidb import Record as Record
from jax_roipool.data.roidb import Report as Report
from jax_roipool.data.roidb import Roidb as Roidb
from jax_roipool.data.roidb import TargetStatistics as TargetStatistics
from jax_roipool.data.sampling import Candidates as Candidates
from jax_roipool.data.sampling import Sample as Sample
from jax_roipool.data.sampling import SamplingConfig as SamplingConfig
from jax_roipool.data.sampling import bbox_targets as bbox_targets
from jax_roipool.data.sampling import candidates as candidates
from jax_roipool.data.sampling import choose as choose
from jax_roipool.data.sampling import has_samples as has_samples
from jax_roipool.data.sampling import sample as sample

__all__ = [
    "VOC_CLASSES",
    "Candidates",
    "EpochPlan",
    "Experiment",
    "ImageConfig",
    "ImageError",
    "LayerConfig",
    "Minibatch",
    "Record",
    "Report",
    "RoIDataLayer",
    "Roidb",
    "Sample",
    "SamplingConfig",
    "Step",
    "TargetStatistics",
    "WorkerError",
    "bbox_targets",
    "candidates",
    "choose",
    "get_minibatch",
    "has_samples",
    "read_coco",
    "read_experiment",
    "read_voc",
    "sample",
    "to_features",
]

if TYPE_CHECKING:
    from jax_roipool.data.config import LayerConfig as LayerConfig
    from jax_roipool.data.experiments import Experiment as Experiment
    from jax_roipool.data.experiments import read_experiment as read_experiment
    from jax_roipool.data.images import ImageConfig as ImageConfig
    from jax_roipool.data.images import ImageError as ImageError
    from jax_roipool.data.images import to_features as to_features
    from jax_roipool.data.layer import RoIDataLayer as RoIDataLayer
    from jax_roipool.data.minibatch import Minibatch as Minibatch
    from jax_roipool.data.minibatch import get_minibatch as get_minibatch
    from jax_roipool.data.plan import EpochPlan as EpochPlan
    from jax_roipool.data.plan import Step as Step
    from jax_roipool.data.workers import WorkerError as WorkerError

_WITH_IMAGES = {
    "LayerConfig": "config",
    "Experiment": "experiments",
    "read_experiment": "experiments",
    "ImageConfig": "images",
    "ImageError": "images",
    "to_features": "images",
    "RoIDataLayer": "layer",
    "Minibatch": "minibatch",
    "get_minibatch": "minibatch",
    "EpochPlan": "plan",
    "Step": "plan",
    "WorkerError": "workers",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_IMAGES})


def __getattr__(name: str) -> Any:
    if name not in _WITH_IMAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_IMAGES[name]}"), name)
