"""Evaluation: score a checkpoint on annotated images, and find the worst images and the most confused classes."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ray_segformer._batch_columns import error_with_path
from ray_segformer._guesses import Guess
from ray_segformer._labels import Labels
from ray_segformer.images import MAX_PIXELS, ImageError, encode
from ray_segformer.jobs._cluster import ENCODING_CPUS
from ray_segformer.jobs._evaluation_predictor import EvaluationPredictor
from ray_segformer.jobs._progress import with_progress
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.protocol import Protocol


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
    labels: Labels,
    worst: int = 8,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
    **resources: Any,
) -> tuple[SegmentationMetrics, list[ScoredImage], int, list[Guess]]:
    """Score a checkpoint on a dataset.

    Images are streamed: the driver keeps only a confusion matrix, and the worst images so far.

    Args:
        dataset: has `path`, `image` and `annotation`, as the datasets of `ray_segformer.datasets`.
        checkpoint: a `SegformerCheckpoint`.
        protocol: how images are shown to the network.
        workers: the most predictors.
        batch_size: the number of images that are predicted at once.
        labels: how annotations become class ids of the model.
        worst: how many of the worst images to return. Default: 8.
        max_pixels: a larger image or annotation is an error; see `SegformerPreprocessor`. Default: `MAX_PIXELS`.
        progress: whether to show on stderr how many images are done. Default: False.
        resources: what a predictor reserves: further arguments of `map_batches`.

    Returns:
        The metrics of all images, which leave out the class ids `labels.ignored_ids`; the images with the lowest
        accuracy (the worst first); the number of images; and the warnings about the annotations: see
        `Labels.guesses`.

    Raises:
        ImageError: an image or annotation cannot be read, the two have different sizes, or an id is no class of the
            model. Ray may wrap it.
        InputError: the annotations of all images cannot be right; see `Labels.check`.
    """
    scored = dataset.map_batches(
        EvaluationPredictor,
        fn_constructor_args=(ray.put(checkpoint),),
        fn_constructor_kwargs={"protocol": protocol, "max_pixels": max_pixels},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        **resources,
    )
    metrics = SegmentationMetrics(labels.num_classes, ignore_index=labels.ignored_ids[0])
    annotated = np.zeros(labels.num_classes + 1, np.int64)
    images, worst_images = 0, list[ScoredImage]()
    score = _Score(labels, max_pixels)
    rows = scored.map_batches(score, batch_size=batch_size, num_cpus=ENCODING_CPUS).iter_rows()
    for row in with_progress(rows) if progress else rows:
        places, counts = np.frombuffer(row["counts"], np.int64).reshape(2, -1)
        metrics.confusion.ravel()[places] += counts
        annotated[-1] += row["ignored"]
        images += 1
        if not math.isnan(row["accuracy"]):
            image = ScoredImage(*(row[field.name] for field in fields(ScoredImage)))
            worst_images = heapq.nsmallest(worst, [*worst_images, image], key=lambda image: image.accuracy)
    annotated[:-1] = metrics.confusion.sum(axis=1)
    labels.check(annotated)
    return metrics, worst_images, images, labels.guesses(annotated, checkpoint.id2label)


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
    array `(2, N)`, which holds the flat indices of the other cells and their counts. `ignored` is the number of pixels
    that are in none of them.
    """

    def __init__(self, labels: Labels, max_pixels: int) -> None:
        self._labels = labels
        self._max_pixels = max_pixels

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        names = ("accuracy", "counts", "ignored", "annotation", "prediction")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for path, mask, cell in zip(batch["path"], batch["segmentation"], batch["annotation"], strict=True):
            metrics = SegmentationMetrics(self._labels.num_classes, ignore_index=self._labels.ignored_ids[0])
            try:
                annotation = self._labels.class_ids(cell, self._max_pixels)
                metrics.update(mask, annotation)
            except ValueError as error:  # of `class_ids` or `update`; an ImageError is a ValueError
                raise ImageError(f"{path}: {error}") from error
            except Exception as error:
                raise error_with_path(path, error) from error
            places = np.flatnonzero(metrics.confusion)
            columns["counts"].append(np.stack([places, metrics.confusion.ravel()[places]]).tobytes())
            columns["ignored"].append(annotation.size - int(metrics.confusion.sum()))
            columns["accuracy"].append(metrics.compute()["overall_accuracy"])
            columns["annotation"].append(
                encode(annotation.astype(np.uint8 if self._labels.num_classes <= 255 else np.uint16), "PNG")
            )
            columns["prediction"].append(encode(mask, "PNG"))
        return {"path": batch["path"], "image": batch["image"], **columns}
