"""`ray.util.ActorPool`: the next batch goes to the next free actor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import ActorPool

from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, split, worker_resources


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

    Results come as soon as they are done (`map_unordered`), and the column `index` restores their order. A slow batch
    does not delay the others. If the process of an actor dies, Ray restarts the actor and retries its call, up to three
    times.

    See `ray_segformer.architectures` for the arguments and the result.
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
