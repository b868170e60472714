"""Evaluation: score a checkpoint on annotated images, and find the worst images and the most confused classes."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ray_segformer.batch_columns import of_path
from ray_segformer.images import MAX_PIXELS, ImageError, encode, reduce_labels, to_class_ids
from ray_segformer.jobs.cluster import ENCODING_CPUS
from ray_segformer.jobs.progress import with_progress
from ray_segformer.jobs.protocol import EvaluationPredictor, Protocol
from ray_segformer.metrics import SegmentationMetrics


@dataclass(frozen=True)
class ScoredImage:
    """One image and its score.

    Attributes:
        accuracy: the share of annotated pixels that are predicted right; NaN if no pixel is annotated.
        path: the path of the image.
        image: its encoded bytes.
        annotation, prediction: PNGs of class ids, numbered as the model's classes.
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
    """Score a checkpoint on a dataset.

    Images are streamed: the driver keeps only a confusion matrix, and the worst images so far.

    Args:
        dataset: has `path`, `image` and `annotation`, as the datasets of `ray_segformer.datasets`.
        checkpoint: a `SegformerCheckpoint`.
        protocol: how images are shown to the network.
        workers: the most predictors.
        batch_size: the number of images that are predicted at once.
        reduce_annotations: whether annotations have the class ids of ADE20K's files; see `reduce_labels`.
        worst: how many of the worst images to return. Default: 8.
        max_pixels: a larger image or annotation is an error; see `SegformerPreprocessor`. Default: `MAX_PIXELS`.
        progress: whether to show on stderr how many images are done. Default: False.
        resources: what a predictor reserves: further arguments of `map_batches`.

    Returns:
        The metrics of all images, which leave out the class ids `checkpoint.content.ignored_ids`; the images with the
        lowest accuracy (the worst first); and the number of images.

    Raises:
        ImageError: an image or annotation cannot be read, or the two have different sizes. Ray may wrap it.
    """
    content = checkpoint.content
    scored = dataset.map_batches(
        EvaluationPredictor,
        fn_constructor_args=(ray.put(checkpoint),),
        fn_constructor_kwargs={"protocol": protocol, "max_pixels": max_pixels},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        **resources,
    )
    metrics = SegmentationMetrics(content.num_labels, ignore_index=content.ignored_ids[0])
    images, worst_images = 0, list[ScoredImage]()
    score = _Score(content.num_labels, content.ignored_ids, reduce_annotations, max_pixels)
    rows = scored.map_batches(score, batch_size=batch_size, num_cpus=ENCODING_CPUS).iter_rows()
    for row in with_progress(rows) if progress else rows:
        places, counts = np.frombuffer(row["counts"], np.int64).reshape(2, -1)
        metrics.confusion.ravel()[places] += counts
        images += 1
        if not math.isnan(row["accuracy"]):
            image = ScoredImage(*(row[field.name] for field in fields(ScoredImage)))
            worst_images = heapq.nsmallest(worst, [*worst_images, image], key=lambda image: image.accuracy)
    return metrics, worst_images, images


def most_confused(metrics: SegmentationMetrics, count: int = 12) -> list[int]:
    """Return the ids of the classes that are confused most often, the worst first.

    A class is ranked by its number of wrong pixels: its pixels that are predicted as another class, plus pixels of
    other classes that are predicted as it. Classes without wrong pixels are left out.

    Args:
        metrics: the metrics of `evaluate`.
        count: how many classes to return at most. Default: 12.
    """
    wrong = metrics.confusion - np.diag(np.diag(metrics.confusion))
    pixels = wrong.sum(axis=0) + wrong.sum(axis=1)
    return [int(class_id) for class_id in np.argsort(-pixels, kind="stable")[:count] if pixels[class_id]]


class _Score:
    """Scores each image of a batch of predictions. For `map_batches`.

    `accuracy` is the image's. `counts` is its confusion matrix without the cells that are 0: the bytes of an int64
    array `(2, N)`, which holds the flat indices of the other cells and their counts.
    """

    def __init__(
        self, num_classes: int, ignored_ids: tuple[int, ...], reduce_annotations: bool, max_pixels: int
    ) -> None:
        self._num_classes = num_classes
        self._ignored_ids = ignored_ids
        self._reduce = reduce_annotations
        self._max_pixels = max_pixels

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in ("accuracy", "counts", "annotation", "prediction")}
        for path, mask, cell in zip(batch["path"], batch["segmentation"], batch["annotation"], strict=True):
            try:
                metrics, annotation = self._scored(mask, cell)
            except ValueError as error:  # of `to_class_ids` or `update`; an ImageError is a ValueError
                raise ImageError(f"{path}: {error}") from error
            except Exception as error:
                raise of_path(path, error) from error
            places = np.flatnonzero(metrics.confusion)
            columns["counts"].append(np.stack([places, metrics.confusion.ravel()[places]]).tobytes())
            columns["accuracy"].append(metrics.compute()["overall_accuracy"])
            columns["annotation"].append(encode(annotation, "PNG"))
            columns["prediction"].append(encode(mask, "PNG"))
        return {"path": batch["path"], "image": batch["image"], **columns}

    def _scored(self, mask: npt.NDArray[Any], cell: Any) -> tuple[SegmentationMetrics, npt.NDArray[Any]]:
        """Return the metrics of a mask and its annotation, in which the first of `ignored_ids` stands for all."""
        ignored = self._ignored_ids[0]
        annotation: npt.NDArray[Any] = to_class_ids(cell, self._max_pixels)
        if self._num_classes > 255:
            annotation = annotation.astype(np.int32)  # so that it holds any ignored id, also one below 0
        if self._reduce:
            annotation = reduce_labels(annotation, ignored)
        if len(self._ignored_ids) > 1:
            annotation = np.where(np.isin(annotation, self._ignored_ids), ignored, annotation)
        metrics = SegmentationMetrics(self._num_classes, ignore_index=ignored)
        metrics.update(mask, annotation)
        return metrics, annotation.astype(np.uint8 if self._num_classes <= 255 else np.uint16)
