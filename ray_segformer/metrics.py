"""Confusion matrices and intersection over union, from class maps."""

from __future__ import annotations

import numpy as np


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
    return float(np.nanmean(per_class_iou(confusion)))
