"""`BatchPredictor`: tasks on CPUs preprocess and a pool of actors predicts, both at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer.air import BatchMapper, BatchPredictor
from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, in_first_row, rows, worker_resources
from ray_segformer.architectures.timeline import Recorder
from ray_segformer.preprocessor import SegformerPreprocessor


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

    Two stages of Ray Data stream into each other: tasks decode and resize on CPUs, actors run the network, on GPUs
    where there are. The pool of actors grows from one up to `workers`. A process that dies is replaced by Ray Data, and
    its batches repeated.

    Args:
        images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
        checkpoint: a `SegformerCheckpoint`, or any checkpoint of Ray that holds a SegFormer.
        workers: actors at most.
        batch_size: images preprocessed, and predicted, at once.
        num_cpus, num_gpus: what an actor reserves; None for one CPU, or less, so that one is left to preprocess.
        options: for `SegformerPredictor`, such as `runtime` or `on_error`.

    Returns:
        The masks in the order of the images, and the timeline.

    Raises:
        ValueError: no images, or `workers` or `batch_size` below 1.
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


def timed(preprocessor: SegformerPreprocessor, batch_size: int) -> BatchMapper:
    """A preprocessor that notes when it preprocessed which images, in a column `preprocess_events`."""

    def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
        """The preprocessor's batch, with that column."""
        recorder = Recorder()
        with recorder.note("preprocess", batch["index"]):
            batch = preprocessor.transform_batch(batch)
        return {**batch, "preprocess_events": in_first_row(recorder.take(), len(batch["index"]))}

    return BatchMapper(preprocess, batch_format="numpy", batch_size=batch_size)
