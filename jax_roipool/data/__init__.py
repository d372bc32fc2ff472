"""Fast R-CNN's data layer: records, sampling of RoIs, boxes.

>>> from jax_roipool import data
>>> data.iou([[0, 0, 9, 9]], [[0, 0, 9, 4]])
array([[0.5]], dtype=float32)
"""

from jax_roipool.data.boxes import MAX_LOG_SIZE as MAX_LOG_SIZE
from jax_roipool.data.boxes import areas as areas
from jax_roipool.data.boxes import clip as clip
from jax_roipool.data.boxes import decode as decode
from jax_roipool.data.boxes import encode as encode
from jax_roipool.data.boxes import flip as flip
from jax_roipool.data.boxes import iou as iou
from jax_roipool.data.boxes import nms as nms
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
