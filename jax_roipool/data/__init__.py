"""Fast R-CNN's data layer."""
