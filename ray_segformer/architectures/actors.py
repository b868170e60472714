"""Actors, scheduled by hand: each loads the model once, and batches are dealt out to them in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, split, worker_resources

_IN_FLIGHT_PER_WORKER = 2  # one that is predicted, and one that waits for it to end


def actors(
    images: Sequence[Any],
    checkpoint: Any,
    *,
    workers: int = 2,
    batch_size: int = 4,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Run:
    """Segment images in Ray actors, dealing out the batches in turn.

    `ray.wait` holds back further batches while two for each worker are in flight, so that neither the driver nor the
    object store fills with what no worker has begun. Whose turn it is does not depend on who is free: behind a slow
    worker, its batches queue up while the others idle. An actor whose process dies is started again by Ray, and its
    calls repeated, up to three times.

    Args:
        images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
        checkpoint: a `SegformerCheckpoint`, or any checkpoint of Ray that holds a SegFormer.
        workers: actors.
        batch_size: images predicted at once.
        num_cpus, num_gpus: what an actor reserves; None for one CPU, or less where there are not enough.
        options: for `SegformerPredictor`, such as `runtime` or `on_error`.

    Returns:
        The masks in the order of the images, and the timeline.

    Raises:
        ValueError: no images, or `workers` or `batch_size` below 1.
    """
    check(images, workers, batch_size)
    start = time.time()
    checkpoint_ref = ray.put(checkpoint)
    actor = ray.remote(TimedPredictor).options(
        **worker_resources(workers, num_cpus, num_gpus), max_restarts=3, max_task_retries=3
    )
    pool: list[Any] = [actor.remote(checkpoint_ref, **options) for _ in range(workers)]
    results: list[Any] = []
    in_flight: list[ray.ObjectRef] = []
    for turn, batch in enumerate(split(images, batch_size)):
        if len(in_flight) == _IN_FLIGHT_PER_WORKER * workers:
            (done,), in_flight = ray.wait(in_flight, num_returns=1)
            results.append(ray.get(done))
        in_flight.append(pool[turn % workers].__call__.remote(batch))
    results += ray.get(in_flight)
    return collect(results, len(images), start)
