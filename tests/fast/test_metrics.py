"""Scores, against their definitions written out pixel by pixel, and beside torchmetrics."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.segmentation import MeanIoU

from ray_segformer.metrics import SegmentationMetrics, confusion_matrix, mean_iou, per_class_iou


def counted(prediction, annotation, num_classes):
    """A confusion matrix by its definition."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for predicted, annotated in zip(prediction.flat, annotation.flat, strict=True):
        if annotated != 255:
            matrix[annotated, predicted] += 1
    return matrix


def maps(seed, num_classes, shape=(31, 17)):
    """A random prediction, and an annotation with ignored pixels that has only some of the classes."""
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, num_classes, shape).astype(np.uint8)
    annotation = np.where(rng.random(shape) < 0.2, 255, rng.integers(0, max(num_classes // 2, 1), shape))
    return prediction, annotation.astype(np.uint8)


@pytest.mark.parametrize("num_classes", [2, 8, 150])
def test_confusion_matrix(num_classes):
    prediction, annotation = maps(num_classes, num_classes)
    matrix = confusion_matrix(prediction, annotation, num_classes)
    np.testing.assert_array_equal(matrix, counted(prediction, annotation, num_classes))


def test_iou_leaves_absent_classes_out():
    annotation = np.array([0, 0, 0, 1, 1, 255], np.uint8)
    prediction = np.array([0, 0, 1, 1, 3, 2], np.uint8)
    confusion = confusion_matrix(prediction, annotation, 4)
    np.testing.assert_allclose(per_class_iou(confusion), [2 / 3, 1 / 3, np.nan, 0])
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_wrong_maps_are_refused_and_not_counted():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        confusion_matrix(np.zeros(2, np.uint8), np.zeros(3, np.uint8), 2)
    with pytest.raises(ValueError, match="EXIF orientation"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    metrics = SegmentationMetrics(4)
    with pytest.raises(ValueError, match=r"prediction has class ids in \[0, 9\], expected \[0, 4\)"):
        metrics.update(np.array([0, 9]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"prediction has class ids in \[0, 4\], expected \[0, 4\)"):
        metrics.update(np.array([0, 4]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"annotation has class ids in \[1, 4\], expected \[0, 4\)"):
        metrics.update(np.array([0, 3]), np.array([4, 1]))
    with pytest.raises(
        ValueError, match="the prediction must hold integer class ids, not float32; for logits, take the argmax"
    ):
        metrics.update(np.array([0.2, 0.9], np.float32), np.array([0, 1]))
    with pytest.raises(ValueError, match="the annotation must hold integer class ids, not float64"):
        metrics.update(np.array([0, 1]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="the annotation must hold integer class ids, not float64"):
        SegmentationMetrics(4, reduce_labels=True).update(np.array([0, 1]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="num_classes is 1 or more, not 0"):
        SegmentationMetrics(0)
    assert not metrics.confusion.any()


@pytest.mark.parametrize("kind", [torch.from_numpy, Image.fromarray, np.ndarray.tolist])
def test_tensors_pictures_and_lists_count_as_arrays_do(kind):
    prediction, annotation = maps(3, 8)
    expected, metrics = counted(prediction, annotation, 8), SegmentationMetrics(8)
    metrics.update(kind(prediction), kind(annotation))
    np.testing.assert_array_equal(metrics.confusion, expected)
    reduced = SegmentationMetrics(8, reduce_labels=True)
    reduced.update(kind(prediction), kind(np.where(annotation == 255, 0, annotation + 1).astype(np.uint8)))
    np.testing.assert_array_equal(reduced.confusion, expected)


def scores_by_definition(pairs, num_classes):
    """Scores of (prediction, annotation) pairs, by sets of pixels instead of counts."""
    iou, accuracy, right, total = {}, {}, 0, 0
    for class_id in range(num_classes):
        both = either = annotated_so = 0
        for prediction, annotation in pairs:
            valid = annotation != 255
            predicted, annotated = (prediction == class_id) & valid, annotation == class_id
            both += (predicted & annotated).sum()
            either += (predicted | annotated).sum()
            annotated_so += annotated.sum()
        if either:
            iou[class_id] = both / either
        if annotated_so:
            accuracy[class_id] = both / annotated_so
        right, total = right + both, total + annotated_so
    return iou, accuracy, right / total


@pytest.mark.parametrize("num_classes", [2, 8, 150])
def test_scores_of_several_images_by_their_definitions(num_classes):
    pairs = [maps(seed, num_classes, (20 + seed, 30)) for seed in range(5)]
    metrics = SegmentationMetrics(num_classes)
    for prediction, annotation in pairs:
        metrics.update(prediction, annotation)
    scores = metrics.compute()
    iou, accuracy, overall = scores_by_definition(pairs, num_classes)
    for name, expected in (("iou", iou), ("accuracy", accuracy)):
        found = scores[f"per_category_{name}"]
        assert {int(i): found[i] for i in np.flatnonzero(~np.isnan(found))} == pytest.approx(expected)
        assert scores[f"mean_{name}"] == pytest.approx(np.mean(list(expected.values())))
    assert scores["overall_accuracy"] == pytest.approx(overall)


def test_torchmetrics_confusion_matrix_agrees_and_its_mean_iou_is_another_number():
    # Two images: a small car found in one, a large one missed in the other.
    annotations = np.zeros((2, 40, 40), np.int64)
    annotations[0, :4, :4], annotations[1, :30] = 1, 1
    predictions = np.zeros_like(annotations)
    predictions[0, :4, :4] = 1
    metrics = SegmentationMetrics(2)
    metrics.update(predictions, annotations)
    theirs = MulticlassConfusionMatrix(2)(torch.from_numpy(predictions), torch.from_numpy(annotations))
    np.testing.assert_array_equal(metrics.confusion, theirs.numpy())
    accuracy = MulticlassAccuracy(2, average="micro")(torch.from_numpy(predictions), torch.from_numpy(annotations))
    scores = metrics.compute()
    assert scores["overall_accuracy"] == pytest.approx(accuracy.item())
    of_the_dataset = (16 / (16 + 1200) + (1584 + 400) / (1584 + 1600)) / 2
    assert scores["mean_iou"] == pytest.approx(of_the_dataset)
    of_the_images = ((1 + 1) / 2 + (0 + 400 / 1600) / 2) / 2
    by_image = MeanIoU(2, input_format="index")(torch.from_numpy(predictions), torch.from_numpy(annotations))
    assert by_image.item() == pytest.approx(of_the_images)
    assert of_the_images > of_the_dataset + 0.2


def test_partial_counts_merge():
    pairs = [maps(seed, 8) for seed in range(6)]
    whole, parts = SegmentationMetrics(8), [SegmentationMetrics(8) for _ in range(3)]
    for number, pair in enumerate(pairs):
        whole.update(*pair)
        parts[number % 3].update(*pair)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    np.testing.assert_array_equal(parts[2].confusion, whole.confusion)
    with pytest.raises(ValueError, match=r"\(8, 255, False\) and \(8, 255, True\)"):
        whole.merge(SegmentationMetrics(8, reduce_labels=True))


def test_labels_are_reduced_once():
    annotation = np.array([0, 1, 2, 3, 255], np.uint8)
    metrics = SegmentationMetrics(3, reduce_labels=True)
    metrics.update(np.array([0, 0, 1, 1, 0]), annotation)
    np.testing.assert_array_equal(metrics.confusion, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert annotation.tolist() == [0, 1, 2, 3, 255]  # not in place


def test_without_pixels_there_are_no_scores():
    metrics = SegmentationMetrics(3)
    metrics.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    scores = metrics.compute()
    assert all(np.isnan(scores[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy"))


@pytest.mark.parametrize("ignore_index", [-100, 65535, 255])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16])
def test_labels_are_reduced_whatever_their_dtype_can_hold(ignore_index, dtype):
    metrics = SegmentationMetrics(300, ignore_index=ignore_index, reduce_labels=True)
    metrics.update(np.array([[0, 0, 0]]), np.array([[0, 1, 1]]).astype(dtype))
    assert metrics.confusion[0, 0] == metrics.confusion.sum() == 2
