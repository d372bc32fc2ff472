"""Faster R-CNN on `jax_roipool`: `python -m examples.faster_rcnn --help`."""
