"""Stateless tasks: each one loads the model and predicts one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, split, worker_resources


def tasks(
    images: Sequence[Any],
    checkpoint: Any,
    *,
    workers: int = 2,
    batch_size: int = 4,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Run:
    """Segment images in Ray tasks, one batch per task.

    At most `workers` tasks are submitted at a time. The weights are put in the object store once, and the tasks of a
    node read the same copy, but each task builds the network again. If the process of a task dies, Ray retries the
    task, up to three times.

    See `ray_segformer.architectures` for the arguments and the result.
    """
    check(images, workers, batch_size)
    start = time.time()
    checkpoint_ref = ray.put(checkpoint)
    task = predict.options(**worker_resources(workers, num_cpus, num_gpus), max_retries=3)
    results: list[Any] = []
    in_flight: list[ray.ObjectRef[Any]] = []
    for batch in split(images, batch_size):
        if len(in_flight) == workers:
            (done,), in_flight = ray.wait(in_flight, num_returns=1)
            results.append(ray.get(done))
        in_flight.append(task.remote(checkpoint_ref, batch, options))
    results += ray.get(in_flight)
    return collect(results, len(images), start)


@ray.remote
def predict(checkpoint: Any, batch: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Load the model, and predict one batch."""
    predictions: dict[str, Any] = TimedPredictor(checkpoint, **options)(batch)
    return predictions
