"""Prediction as a job. Scripts import from here; the code is in `ray_segformer.jobs`."""

from ray_segformer.jobs import ResourceError, predict

__all__ = ["ResourceError", "predict"]
