"""Confusion matrices and IoU, against their definitions written out."""

import numpy as np
import pytest

from ray_segformer.metrics import confusion_matrix, mean_iou, per_class_iou


def counted(prediction, annotation, num_classes):
    """A confusion matrix by its definition."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for predicted, annotated in zip(prediction.flat, annotation.flat, strict=True):
        if annotated != 255:
            matrix[annotated, predicted] += 1
    return matrix


@pytest.mark.parametrize("num_classes", [2, 8, 150])
def test_confusion_matrix(num_classes):
    rng = np.random.default_rng(num_classes)
    prediction = rng.integers(0, num_classes, (31, 17)).astype(np.uint8)
    annotation = np.where(rng.random((31, 17)) < 0.2, 255, rng.integers(0, num_classes, (31, 17))).astype(np.uint8)
    matrix = confusion_matrix(prediction, annotation, num_classes)
    np.testing.assert_array_equal(matrix, counted(prediction, annotation, num_classes))


def test_iou_leaves_absent_classes_out():
    annotation = np.array([0, 0, 0, 1, 1, 255], np.uint8)
    prediction = np.array([0, 0, 1, 1, 3, 2], np.uint8)
    confusion = confusion_matrix(prediction, annotation, 4)
    np.testing.assert_allclose(per_class_iou(confusion), [2 / 3, 1 / 3, np.nan, 0])
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_wrong_maps_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        confusion_matrix(np.zeros(2, np.uint8), np.zeros(3, np.uint8), 2)
    with pytest.raises(ValueError, match=r"prediction has class ids in \[0, 9\], expected \[0, 4\)"):
        confusion_matrix(np.array([0, 9]), np.array([0, 1]), 4)
