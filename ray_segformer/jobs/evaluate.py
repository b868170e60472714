"""Evaluation: annotated images through a pool of predictors to scores, the worst images and the confusions."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from ray_segformer.images import MAX_PIXELS, ImageError, encode, reduce_labels, to_class_ids
from ray_segformer.jobs.progress import with_progress
from ray_segformer.jobs.protocol import EvaluationPredictor, Protocol
from ray_segformer.jobs.resources import ENCODING_CPUS
from ray_segformer.metrics import SegmentationMetrics


@dataclass(frozen=True)
class ScoredImage:
    """One image and its score.

    Attributes:
        accuracy: the share of its annotated pixels that are predicted right; NaN where none is annotated.
        path: where it came from.
        image: encoded bytes.
        annotation, prediction: PNGs of class ids in the model's numbering.
    """

    accuracy: float
    path: str
    image: bytes
    annotation: bytes
    prediction: bytes


def evaluate(
    dataset: ray.data.Dataset,
    checkpoint: Any,
    protocol: Protocol,
    *,
    workers: int,
    batch_size: int,
    reduce_annotations: bool,
    worst: int = 8,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
    **resources: Any,
) -> tuple[SegmentationMetrics, list[ScoredImage], int]:
    """Score a checkpoint on a dataset, streaming: the driver sees counts, and the images that were worst so far.

    Args:
        dataset: `path`, `image` and `annotation`, as `ray_segformer.datasets` reads them.
        checkpoint: a `SegformerCheckpoint`.
        workers: predictors at most.
        batch_size: images predicted at once.
        reduce_annotations: whether annotations are numbered as ADE20K's files are.
        worst: how many of the worst images to return.
        max_pixels: a larger image or annotation is an error; see `SegformerPreprocessor`.
        progress: whether to count images on stderr.
        resources: what a predictor reserves, for `map_batches`.

    Returns:
        The metrics of all images, the worst ones (the worst first), and how many images there were.
    """
    num_classes = checkpoint.content.num_labels
    scored = dataset.map_batches(
        EvaluationPredictor,
        fn_constructor_args=(ray.put(checkpoint),),
        fn_constructor_kwargs={"protocol": protocol, "max_pixels": max_pixels},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        **resources,
    )
    metrics = SegmentationMetrics(num_classes)
    images, worst_images = 0, list[ScoredImage]()
    score = _Score(num_classes, reduce_annotations, max_pixels)
    rows = scored.map_batches(score, batch_size=batch_size, num_cpus=ENCODING_CPUS).iter_rows()
    for row in with_progress(rows) if progress else rows:
        places, counts = np.frombuffer(row["counts"], np.int64).reshape(2, -1)
        metrics.confusion.ravel()[places] += counts
        images += 1
        if row["accuracy"] == row["accuracy"]:  # else nothing is annotated
            own = {name: row[name] for name in ("accuracy", "path", "image", "annotation", "prediction")}
            worst_images = heapq.nsmallest(worst, [*worst_images, ScoredImage(**own)], key=lambda image: image.accuracy)
    return metrics, worst_images, images


class _Score:
    """Turns predictions into an image's counts and accuracy, and its maps into PNGs. For `map_batches`."""

    def __init__(self, num_classes: int, reduce_annotations: bool, max_pixels: int):
        self._num_classes = num_classes
        self._reduce = reduce_annotations
        self._max_pixels = max_pixels

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in ("accuracy", "counts", "annotation", "prediction")}
        for path, mask, cell in zip(batch["path"], batch["segmentation"], batch["annotation"], strict=True):
            metrics = SegmentationMetrics(self._num_classes)
            try:
                annotation = to_class_ids(cell, self._max_pixels)
                annotation = reduce_labels(annotation) if self._reduce else annotation
                metrics.update(mask, annotation)
            except ValueError as error:  # an ImageError is one
                raise ImageError(f"{path}: {error}") from error
            places = np.flatnonzero(metrics.confusion)
            columns["counts"].append(np.stack([places, metrics.confusion.ravel()[places]]).tobytes())
            columns["accuracy"].append(metrics.compute()["overall_accuracy"])
            columns["annotation"].append(encode(annotation, "PNG"))
            columns["prediction"].append(encode(mask, "PNG"))
        return {"path": batch["path"], "image": batch["image"], **columns}


def most_confused(metrics: SegmentationMetrics, count: int = 12) -> list[int]:
    """The class ids with the most pixels taken for another class or another class's taken for them, the worst first."""
    wrong = metrics.confusion - np.diag(np.diag(metrics.confusion))
    pixels = wrong.sum(axis=0) + wrong.sum(axis=1)
    return [int(class_id) for class_id in np.argsort(-pixels, kind="stable")[:count] if pixels[class_id]]
