"""Intersection over union (IoU) and accuracy of class maps, from confusion matrices.

metrics = SegmentationMetrics(num_classes=150, reduce_labels=True)
for prediction, annotation in pairs:
    metrics.update(prediction, annotation)
metrics.compute()["mean_iou"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_segformer.images import advice_on_size, cells, reduce_labels, to_class_ids

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["SegmentationMetrics", "confusion_matrix", "mean_iou", "per_class_iou", "score_dataset"]

_BATCH_SIZE = 16


class SegmentationMetrics:
    """The scores of a whole dataset, computed from the pixel counts of all its images together.

    `mean_iou` of Hugging Face `evaluate` and `IoUMetric` of mmsegmentation do the same. `MeanIoU` of torchmetrics
    differs: it computes a mean per image first, which gives more weight to small objects in few images.

    Args:
        num_classes: the number of classes.
        ignore_index: annotated pixels with this id are left out.
        reduce_labels: whether annotations are numbered as in ADE20K's files, with 0 for other and classes from 1. Then
            0 becomes `ignore_index`, and k becomes k - 1. Annotations of `SegformerPreprocessor(do_reduce_labels=True)`
            are reduced already.

    Attributes:
        confusion: int64 `(num_classes, num_classes)`, pixel counts by annotated (rows) and predicted (columns) class.

    Raises:
        ValueError: `num_classes` is below 1.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, reduce_labels: bool = False) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is 1 or more, not {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduce_labels = reduce_labels
        self.confusion: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: npt.ArrayLike, annotation: npt.ArrayLike) -> None:
        """Count the pixels of an image, or of a batch of images.

        Args:
            prediction, annotation: as for `confusion_matrix`.

        Raises:
            ValueError: as for `confusion_matrix`. Nothing is counted then.
        """
        if self.reduce_labels:
            annotation = reduce_labels(np.asarray(annotation), self.ignore_index)
        self.confusion += confusion_matrix(prediction, annotation, self.num_classes, self.ignore_index)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add the counts of another object.

        Raises:
            ValueError: it has other classes, or another `ignore_index` or `reduce_labels`.
        """
        own, theirs = ((metrics.num_classes, metrics.ignore_index, metrics.reduce_labels) for metrics in (self, other))
        if own != theirs:
            raise ValueError(
                f"cannot merge metrics with different (num_classes, ignore_index, reduce_labels): {own} and {theirs}"
            )
        self.confusion += other.confusion

    def compute(self) -> dict[str, Any]:
        """Return the scores of all counted pixels, with the names of Hugging Face `evaluate`.

        Returns:
            `per_category_iou`: float64 `(num_classes,)`, intersection over union; NaN for a class in neither map.
            `per_category_accuracy`: float64 `(num_classes,)`, the share of a class's annotated pixels that have the
            right prediction; NaN for a class without annotated pixels. `mean_iou` and `mean_accuracy`: their means
            without NaN. `overall_accuracy`: the share of all counted pixels that have the right prediction. All scores
            are NaN if nothing was counted.
        """
        iou = per_class_iou(self.confusion)
        correct, annotated = np.diag(self.confusion).astype(float), self.confusion.sum(axis=1)
        accuracy = np.divide(correct, annotated, out=np.full(self.num_classes, np.nan), where=annotated > 0)
        total = annotated.sum()
        return {
            "mean_iou": _mean(iou),
            "mean_accuracy": _mean(accuracy),
            "overall_accuracy": float(correct.sum() / total) if total else float("nan"),
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
    """Count the pixels of a dataset of predictions, in tasks of Ray Data.

    Each batch becomes one small confusion matrix, and Ray Data's aggregation adds them up. Masks are not sent to the
    driver, and memory does not grow with the dataset. The result is exactly that of one process.

    Args:
        dataset: predictions and annotations of the same sizes. Annotations are class maps, or image cells (see
            `ray_segformer.images`) such as paths. A row with an `error` has no mask and is left out.
        num_classes: the number of classes.
        prediction_column: the column of the predictions.
        annotation_column: the column of the annotations.
        ignore_index: as for `SegmentationMetrics`.
        reduce_labels: as for `SegmentationMetrics`.

    Returns:
        The metrics of all rows. They are empty for a dataset without rows.

    Raises:
        ValueError: `num_classes` is below 1. In a batch (Ray may wrap it): a column is missing, which the message
            names, or sizes or ids do not fit, and the message names the row.
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
    counts = dataset.map_batches(count, batch_size=_BATCH_SIZE).aggregate(total)
    if counts is not None:  # as of a dataset without blocks
        metrics.confusion += np.asarray(counts["confusion"]).reshape(num_classes, num_classes)
    return metrics


def confusion_matrix(
    prediction: npt.ArrayLike, annotation: npt.ArrayLike, num_classes: int, ignore_index: int = 255
) -> npt.NDArray[np.int64]:
    """Count pixels by annotated (rows) and predicted (columns) class. The matrices of several images can be added.

    Args:
        prediction: class ids of any shape and integer dtype: an array, a tensor on the CPU or a PIL image.
        annotation: the same, of the same shape.
        num_classes: the number of classes.
        ignore_index: annotated pixels with this id are left out.

    Returns:
        int64 `(num_classes, num_classes)`.

    Raises:
        ValueError: the shapes differ, or an id is outside [0, num_classes), or a dtype is not an integer one.
    """
    prediction, annotation = np.asarray(prediction), np.asarray(annotation)
    for name, array in (("prediction", prediction), ("annotation", annotation)):
        if array.dtype.kind not in "biu":
            raise ValueError(f"the {name} must hold integer class ids, not {array.dtype}; for logits, take the argmax")
    if prediction.shape != annotation.shape:
        advice = advice_on_size(annotation.shape, prediction.shape)
        raise ValueError(f"the prediction is {prediction.shape} but the annotation is {annotation.shape}; {advice}")
    counted = annotation != ignore_index
    predicted, annotated = prediction[counted].astype(np.int64), annotation[counted].astype(np.int64)
    for name, ids in (("prediction", predicted), ("annotation", annotated)):
        if ids.size and (ids.min() < 0 or ids.max() >= num_classes):
            raise ValueError(f"the {name} has class ids in [{ids.min()}, {ids.max()}], expected [0, {num_classes})")
    counts: npt.NDArray[np.int64] = np.bincount(annotated * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_iou(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each class, float64 `(classes,)`; NaN for a class in neither map."""
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    iou: npt.NDArray[np.float64] = np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)
    return iou


def mean_iou(confusion: npt.NDArray[np.int64]) -> float:
    """Return the mean IoU of the classes in either map, as mmsegmentation and Hugging Face's `evaluate` do."""
    return _mean(per_class_iou(confusion))


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean without NaN."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def _count_batch(
    batch: dict[str, Any], prediction_column: str, annotation_column: str, settings: SegmentationMetrics
) -> npt.NDArray[np.int64]:
    """Return the confusion matrix of a batch, flat, counted with the settings of `settings`."""
    for column in (prediction_column, annotation_column):
        if column not in batch:
            raise ValueError(f"the batch has no column {column!r}, only {list(batch)}")
    metrics = SegmentationMetrics(
        settings.num_classes, ignore_index=settings.ignore_index, reduce_labels=settings.reduce_labels
    )
    errors = batch.get("error", [None] * len(batch[prediction_column]))
    for row, (prediction, annotation, error) in enumerate(
        zip(batch[prediction_column], cells(batch[annotation_column]), errors, strict=True)
    ):
        if isinstance(error, str) and error:
            continue
        try:
            metrics.update(np.asarray(prediction), to_class_ids(annotation))
        except ValueError as problem:  # or an ImageError, which is a ValueError
            raise ValueError(f"row {row} of the batch: {problem}") from problem
    return metrics.confusion.ravel()
