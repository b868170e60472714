"""Actors that take turns: each loads the model once, and the driver assigns the batches in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, split, worker_resources

_IN_FLIGHT_PER_WORKER = 2  # one batch in work, and one that waits, so that the actor is never idle


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
    """Segment images in Ray actors that take turns.

    At most two batches per worker are in flight: the driver calls `ray.wait` before it submits more. Otherwise, waiting
    batches could fill the memory of the driver and the object store. The turn does not depend on who is free. The
    batches of a slow worker wait in a queue while the other workers are idle. If the process of an actor dies, Ray
    restarts the actor and retries its calls, up to three times.

    See `ray_segformer.architectures` for the arguments and the result.
    """
    check(images, workers, batch_size)
    start = time.time()
    checkpoint_ref = ray.put(checkpoint)
    actor = ray.remote(TimedPredictor).options(
        **worker_resources(workers, num_cpus, num_gpus), max_restarts=3, max_task_retries=3
    )
    pool: list[Any] = [actor.remote(checkpoint_ref, **options) for _ in range(workers)]
    results: list[Any] = []
    in_flight: list[ray.ObjectRef[Any]] = []
    for turn, batch in enumerate(split(images, batch_size)):
        if len(in_flight) == _IN_FLIGHT_PER_WORKER * workers:
            (done,), in_flight = ray.wait(in_flight, num_returns=1)
            results.append(ray.get(done))
        in_flight.append(pool[turn % workers].__call__.remote(batch))
    results += ray.get(in_flight)
    return collect(results, len(images), start)
