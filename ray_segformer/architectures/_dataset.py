"""Ray Data: `map_batches` over a dataset, in an autoscaled pool of actors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, rows, worker_resources


def dataset(
    images: Sequence[Any],
    checkpoint: Any,
    *,
    workers: int = 2,
    batch_size: int = 4,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Run:
    """Segment images with `Dataset.map_batches`, in an autoscaled pool of actors.

    The pool starts with one actor, and grows up to `workers` actors while batches wait. The dataset is streamed, so the
    memory it needs depends on the number of workers, not of images. If the process of an actor dies, Ray Data replaces
    the actor and retries its batches.

    See `ray_segformer.architectures` for the arguments and the result.
    """
    check(images, workers, batch_size)
    start = time.time()
    predictions = ray.data.from_items(rows(images)).map_batches(
        TimedPredictor,
        fn_constructor_args=(ray.put(checkpoint),),
        fn_constructor_kwargs=options,
        compute=ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        **worker_resources(workers, num_cpus, num_gpus),
    )
    results = predictions.iter_batches(batch_size=None)
    return collect(results, len(images), start)
