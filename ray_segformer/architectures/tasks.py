"""Stateless tasks: each loads the model, predicts one batch, and forgets it all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, split, worker_resources


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
    """Segment images in Ray tasks, a batch each.

    The weights are put in the object store once, and the tasks of a node read the same copy; but each task builds its
    network anew. A task whose process dies is run again by Ray, up to three times.

    Args:
        images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
        checkpoint: a `SegformerCheckpoint`, or any checkpoint of Ray that holds a SegFormer.
        workers: tasks that are submitted at a time.
        batch_size: images predicted at once.
        num_cpus, num_gpus: what a task reserves; None for one CPU, or less where there are not enough.
        options: for `SegformerPredictor`, such as `runtime` or `on_error`.

    Returns:
        The masks in the order of the images, and the timeline.

    Raises:
        ValueError: no images, or `workers` or `batch_size` below 1.
    """
    check(images, workers, batch_size)
    start = time.time()
    checkpoint_ref = ray.put(checkpoint)
    task = predict.options(**worker_resources(workers, num_cpus, num_gpus), max_retries=3)
    results: list[Any] = []
    in_flight: list[ray.ObjectRef] = []
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
    return TimedPredictor(checkpoint, **options)(batch)
