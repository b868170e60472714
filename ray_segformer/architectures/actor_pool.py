"""`ray.util.ActorPool`: actors, and a scheduler that gives the next batch to whoever is free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import ActorPool

from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, split, worker_resources


def actor_pool(
    images: Sequence[Any],
    checkpoint: Any,
    *,
    workers: int = 2,
    batch_size: int = 4,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Run:
    """Segment images in a `ray.util.ActorPool`.

    Results come as they are done (`map_unordered`), and are put in order by their `index`; a slow batch holds up
    nobody. An actor whose process dies is started again by Ray, and its call repeated, up to three times.

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
    pool = ActorPool([actor.remote(checkpoint_ref, **options) for _ in range(workers)])
    results = pool.map_unordered(lambda worker, batch: worker.__call__.remote(batch), split(images, batch_size))
    return collect(results, len(images), start)
