"""Intersection over union and accuracy of class maps, from confusion matrices that add up.

metrics = SegmentationMetrics(num_classes=150, reduce_labels=True)
for prediction, annotation in pairs:
    metrics.update(prediction, annotation)
metrics.compute()["mean_iou"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ray_segformer.images import cells, reduce_labels, to_class_ids

if TYPE_CHECKING:
    from ray.data import Dataset

_BATCH_SIZE = 16


class SegmentationMetrics:
    """The scores of a whole dataset, from the pixel counts of all its images: not the mean of the images' scores.

    As Hugging Face `evaluate`'s `mean_iou` and mmsegmentation's `IoUMetric` take them. (torchmetrics' `MeanIoU` takes a
    mean for each image first, which gives small objects in few images more weight.)

    Args:
        num_classes: the number of classes.
        ignore_index: annotated pixels of this id are left out.
        reduce_labels: whether annotations are numbered as ADE20K's files are, 0 for other and classes from 1: 0 becomes
            `ignore_index` and k becomes k - 1. Annotations of `SegformerPreprocessor(do_reduce_labels=True)` are
            reduced already.

    Attributes:
        confusion: int64 `(num_classes, num_classes)`, pixel counts by annotated (rows) and predicted (columns) class.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, reduce_labels: bool = False):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduce_labels = reduce_labels
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: np.ndarray, annotation: np.ndarray) -> None:
        """Count an image, or a batch of them.

        Args:
            prediction, annotation: class ids of one shape, any integer dtype.

        Raises:
            ValueError: the shapes differ, or an id is outside [0, num_classes); nothing is counted then.
        """
        if self.reduce_labels:
            annotation = reduce_labels(annotation, self.ignore_index)
        self.confusion += confusion_matrix(prediction, annotation, self.num_classes, self.ignore_index)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add what another has counted.

        Raises:
            ValueError: it counts other classes, or by other rules.
        """
        rules = [(each.num_classes, each.ignore_index, each.reduce_labels) for each in (self, other)]
        if rules[0] != rules[1]:
            raise ValueError(f"metrics by (num_classes, ignore_index, reduce_labels) {rules[0]} and {rules[1]}")
        self.confusion += other.confusion

    def compute(self) -> dict[str, Any]:
        """The scores of all that was counted, named as Hugging Face `evaluate` names them.

        Returns:
            `per_category_iou`: float64 `(num_classes,)`, intersection over union; NaN where a class is in neither map.
            `per_category_accuracy`: float64 `(num_classes,)`, the share of the class's annotated pixels that were
            predicted so; NaN where it has none. `mean_iou` and `mean_accuracy`: their means without the NaN.
            `overall_accuracy`: the share of all counted pixels. All are NaN where nothing was counted.
        """
        iou = per_class_iou(self.confusion)
        right, annotated = np.diag(self.confusion).astype(float), self.confusion.sum(axis=1)
        accuracy = np.divide(right, annotated, out=np.full(self.num_classes, np.nan), where=annotated > 0)
        total = annotated.sum()
        return {
            "mean_iou": _mean(iou),
            "mean_accuracy": _mean(accuracy),
            "overall_accuracy": float(right.sum() / total) if total else float("nan"),
            "per_category_iou": iou,
            "per_category_accuracy": accuracy,
        }


def score_dataset(
    dataset: Dataset,
    num_classes: int,
    *,
    prediction_column: str = "segmentation",
    annotation_column: str = "annotation",
    ignore_index: int = 255,
    reduce_labels: bool = False,
) -> SegmentationMetrics:
    """The metrics of a dataset of predictions, counted where the blocks are.

    Each batch becomes one small confusion matrix, and these are summed by Ray Data's aggregation: masks never travel,
    and memory does not grow with the dataset. The counts are those of one process, to the last.

    Args:
        dataset: predictions and annotations of the same sizes. Annotations are class maps, or image cells (see
            `ray_segformer.images`) such as paths. A row with an `error`, and so without a mask, is left out.
        prediction_column, annotation_column: their columns.
        num_classes, ignore_index, reduce_labels: as for `SegmentationMetrics`.

    Raises:
        ValueError: on a batch, the columns are missing, or sizes or ids do not fit; the message names the row.
    """
    from ray.data.aggregate import AggregateFn

    metrics = SegmentationMetrics(num_classes, ignore_index=ignore_index, reduce_labels=reduce_labels)

    def count(batch: dict[str, Any]) -> dict[str, np.ndarray]:
        return {"confusion": _count_batch(batch, prediction_column, annotation_column, metrics)[None]}

    total = AggregateFn(
        init=lambda key: np.zeros(num_classes**2, np.int64),
        accumulate_row=lambda sum_so_far, row: sum_so_far + np.asarray(row["confusion"]),
        merge=lambda one, other: np.asarray(one) + np.asarray(other),
        name="confusion",
    )
    counts = dataset.map_batches(count, batch_size=_BATCH_SIZE).aggregate(total)["confusion"]
    metrics.confusion += np.asarray(counts).reshape(num_classes, num_classes)
    return metrics


def confusion_matrix(
    prediction: np.ndarray, annotation: np.ndarray, num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Pixel counts by annotated (rows) and predicted (columns) class. Matrices of several images add up.

    Args:
        prediction, annotation: class ids of one shape, any integer dtype.
        num_classes: the number of classes.
        ignore_index: annotated ids that are left out.

    Returns:
        int64 `(num_classes, num_classes)`.

    Raises:
        ValueError: the shapes differ, or an id is outside [0, num_classes).
    """
    if prediction.shape != annotation.shape:
        raise ValueError(f"the prediction is {prediction.shape} but the annotation is {annotation.shape}")
    counted = annotation != ignore_index
    predicted, annotated = prediction[counted].astype(np.int64), annotation[counted].astype(np.int64)
    for name, ids in (("prediction", predicted), ("annotation", annotated)):
        if ids.size and (ids.min() < 0 or ids.max() >= num_classes):
            raise ValueError(f"the {name} has class ids in [{ids.min()}, {ids.max()}], expected [0, {num_classes})")
    counts = np.bincount(annotated * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 `(classes,)`; NaN where a class is in neither map."""
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """The mean over the classes that are in either map, as mmsegmentation and Hugging Face's `evaluate` take it."""
    return _mean(per_class_iou(confusion))


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def _count_batch(
    batch: dict[str, Any], prediction_column: str, annotation_column: str, rules: SegmentationMetrics
) -> np.ndarray:
    """The confusion matrix of a batch, flat."""
    for column in (prediction_column, annotation_column):
        if column not in batch:
            raise ValueError(f"the batch has no column {column!r}, only {list(batch)}")
    counted = SegmentationMetrics(rules.num_classes, ignore_index=rules.ignore_index, reduce_labels=rules.reduce_labels)
    errors = batch.get("error", [None] * len(batch[prediction_column]))
    for row, (prediction, annotation, error) in enumerate(
        zip(batch[prediction_column], cells(batch[annotation_column]), errors, strict=True)
    ):
        if isinstance(error, str) and error:
            continue
        try:
            counted.update(np.asarray(prediction), to_class_ids(annotation))
        except ValueError as problem:  # an ImageError is one
            raise ValueError(f"row {row} of the batch: {problem}") from problem
    return counted.confusion.ravel()
