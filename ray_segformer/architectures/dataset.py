"""Ray Data: `map_batches` over a dataset, in a pool of actors that grows with the work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, rows, worker_resources


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

    The pool starts with one actor and grows up to `workers` while batches wait. The dataset streams: what is in memory
    depends on the workers, not on the number of images. An actor whose process dies is replaced by Ray Data, and its
    batches repeated.

    Args:
        images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
        checkpoint: a `SegformerCheckpoint`, or any checkpoint of Ray that holds a SegFormer.
        workers: actors at most.
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
