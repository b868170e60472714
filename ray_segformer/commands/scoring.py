"""Scoring for `predict` and `demo`: a dataset of images through `BatchPredictor` to what is written, with progress."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from typing import Any

_MAX_WORKERS = 8  # by default: every worker holds a copy of torch


def resources_of(arguments: argparse.Namespace, rows: int) -> dict[str, Any]:
    """The resource arguments of `BatchPredictor.predict`."""
    import ray

    resources = {"batch_size": arguments.batch_size, "num_gpus_per_worker": arguments.gpus_per_worker}
    available = ray.cluster_resources()
    if arguments.gpus_per_worker > available.get("GPU", 0):
        raise OSError(
            f"--gpus-per-worker {arguments.gpus_per_worker:g}: the cluster has {available.get('GPU', 0):g} GPU(s)"
        )
    if arguments.workers is not None:
        return {**resources, "max_scoring_workers": arguments.workers}
    if arguments.gpus_per_worker > 0:
        return {**resources, "max_scoring_workers": int(available["GPU"] / arguments.gpus_per_worker)}
    cpus = max(int(available.get("CPU", 1)), 1)
    workers = min(cpus, _MAX_WORKERS, math.ceil(rows / arguments.batch_size))
    # One CPU a node stays free for reading and preprocessing.
    nodes = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    cpus_per_worker = min(1.0, math.floor(max(cpus - nodes, 0) / workers * 100) / 100)
    return {**resources, "max_scoring_workers": workers, "num_cpus_per_worker": cpus_per_worker}


def encoded_masks(
    dataset: Any, checkpoint: Any, options: dict[str, Any], palette: Any, resources: dict[str, Any]
) -> Any:
    """The rows of `EncodeMasks` for a dataset of `path`, `image` and `name`, as a lazy dataset.

    Args:
        options: of `SegformerPredictor`, with `on_error`.
        resources: of `BatchPredictor.predict`.
    """
    from ray_segformer.air import BatchPredictor, installed
    from ray_segformer.predictor import SegformerPredictor
    from ray_segformer.writers import EncodeMasks

    keep_columns = ["path", "name"]
    if palette is not None:  # the preprocessor takes the image away; what it was read from is small
        dataset = dataset.map_batches(_with_source, batch_format="pyarrow")
        keep_columns.append("source")
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
    if installed.HAS_AIR:
        predictor.set_preprocessor(checkpoint.get_preprocessor(on_error=options["on_error"]))
    predictions = predictor.predict(dataset, keep_columns=keep_columns, **resources)
    return predictions.map_batches(EncodeMasks(palette), batch_size=resources["batch_size"])


def _with_source(batch: Any) -> Any:
    return batch.append_column("source", batch.column("image"))


def with_progress(dataset: Any, rows: int) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of so many, with a progress bar on stderr."""
    from tqdm import tqdm

    with tqdm(total=rows, unit=" images", file=sys.stderr, mininterval=0.5) as bar:
        for row in dataset.iter_rows():
            yield row
            bar.update()
