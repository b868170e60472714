"""The import path of scripts for prediction as a job; the code is in `ray_segformer.jobs`."""

from ray_segformer.jobs import ResourceError, predict

__all__ = ["ResourceError", "predict"]
