"""`BatchPredictor`: CPU tasks preprocess while a pool of actors predicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.air import BatchMapper, BatchPredictor
from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, in_first_row, rows, worker_resources
from ray_segformer.architectures._timeline import Recorder


def batch_predictor(
    images: Sequence[Any],
    checkpoint: Any,
    *,
    workers: int = 2,
    batch_size: int = 4,
    num_cpus: float | None = None,
    num_gpus: float = 0,
    **options: Any,
) -> Run:
    """Segment images with `BatchPredictor`.

    Ray Data streams batches through two stages. CPU tasks decode and resize; actors run the network, on GPUs if there
    are any. The pool grows from one actor up to `workers`. If `num_cpus` is None, the actors leave one CPU for the
    tasks. If a process dies, Ray Data replaces it and retries its batches.

    See `ray_segformer.architectures` for the arguments and the result.
    """
    check(images, workers, batch_size)
    start = time.time()
    predictor = BatchPredictor.from_checkpoint(checkpoint, TimedPredictor, **options)
    predictor.set_preprocessor(timed(predictor.get_preprocessor(), batch_size))
    reserved = worker_resources(workers, num_cpus, num_gpus, spare_cpus=1)
    predictions = predictor.predict(
        ray.data.from_items(rows(images)),
        batch_size=batch_size,
        max_scoring_workers=workers,
        num_cpus_per_worker=reserved["num_cpus"],
        num_gpus_per_worker=reserved["num_gpus"],
        keep_columns=["index", "preprocess_events"],
    )
    return collect(predictions.iter_batches(batch_size=None), len(images), start)


def timed(preprocessor: Any, batch_size: int) -> BatchMapper:
    """Wrap a preprocessor, so that it records its events in the column `preprocess_events`."""

    def preprocess(batch: Any) -> dict[str, Any]:
        recorder = Recorder()
        with recorder.note("preprocess", batch["index"]):
            batch = preprocessor.transform_batch(batch)
        return {**batch, "preprocess_events": in_first_row(recorder.take(), len(batch["index"]))}

    return BatchMapper(preprocess, batch_format="numpy", batch_size=batch_size)
