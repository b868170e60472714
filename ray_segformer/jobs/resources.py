"""What the workers of a job reserve."""

from __future__ import annotations

import math
from typing import Any

import ray

from ray_segformer.inputs import READING_CPUS

_MAX_WORKERS = 8  # by default: every worker holds a copy of torch

# Ray Data promises CPUs to its stages from the first to the last: were none left for the last, nothing would be written
# before everything is preprocessed.
ENCODING_CPUS = 0.25


class ResourceError(ValueError):
    """What workers are to reserve is not to be had; the message says what there is."""


def resources_for(
    rows: int, batch_size: int, workers: int | None = None, gpus_per_worker: float = 0.0
) -> dict[str, Any]:
    """The resource arguments of `BatchPredictor.predict` for a dataset of so many rows; see `predict`.

    Raises:
        ResourceError: the cluster has no such GPUs.
    """
    resources: dict[str, Any] = {"batch_size": batch_size, "num_gpus_per_worker": gpus_per_worker}
    available = ray.cluster_resources()
    if gpus_per_worker > available.get("GPU", 0):
        raise ResourceError(
            f"--gpus-per-worker {gpus_per_worker:g}: the cluster has {available.get('GPU', 0):g} GPU(s)"
        )
    if gpus_per_worker > 0:
        return {**resources, "max_scoring_workers": workers or int(available["GPU"] / gpus_per_worker)}
    cpus = max(int(available.get("CPU", 1)), 1)
    workers = workers or min(cpus, _MAX_WORKERS, math.ceil(rows / batch_size))
    nodes = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    free = nodes + READING_CPUS + ENCODING_CPUS  # one CPU a node to preprocess
    cpus_per_worker = min(1.0, math.floor(max(cpus - free, 0) / workers * 100) / 100)
    return {**resources, "max_scoring_workers": workers, "num_cpus_per_worker": cpus_per_worker}
