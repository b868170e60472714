"""Scores of a dataset, against those that one process counts, and beside torchmetrics."""

import math

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from torchmetrics.classification import MulticlassConfusionMatrix

from ray_segformer import SegformerPredictor
from ray_segformer.metrics import SegmentationMetrics, score_dataset

pytestmark = pytest.mark.usefixtures("ray_session")


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


@pytest.fixture(scope="module")
def street_paths(shared):
    """Twelve test images with their annotations, from everywhere in the videos."""
    images = sorted((shared / "data/camvid/test/images").glob("*.jpg"))[::20][:12]
    return [(str(path), str(path.parents[1] / "annotations" / f"{path.stem}.png")) for path in images]


def test_a_dataset_counts_as_one_process_does(shared, street_paths):
    model = shared / "models/segformer-b0-camvid"
    predictor = SegformerPredictor(model)
    whole = SegmentationMetrics(150, reduce_labels=True)
    rows = []
    for image, annotation in street_paths:
        mask = predictor.predict({"image": np.array([image], object)})["segmentation"][0]
        whole.update(mask, np.asarray(Image.open(annotation)))
        rows.append({"segmentation": mask, "annotation": annotation})
    metrics = score_dataset(ray.data.from_items(rows).repartition(7), 150, reduce_labels=True)
    np.testing.assert_array_equal(metrics.confusion, whole.confusion)
    theirs = MulticlassConfusionMatrix(150, ignore_index=255)
    for row in rows:
        reduced = np.asarray(Image.open(row["annotation"])).astype(np.int64) - 1
        reduced[reduced < 0] = 255
        theirs.update(torch.from_numpy(row["segmentation"].astype(np.int64)), torch.from_numpy(reduced))
    np.testing.assert_array_equal(metrics.confusion, theirs.compute().numpy())
    assert 0.7 < metrics.compute()["overall_accuracy"] < 0.95


def test_a_dataset_without_rows_has_no_scores():
    assert math.isnan(score_dataset(ray.data.from_items([]), 3).compute()["mean_iou"])


def test_a_dataset_of_many_sizes_with_a_failed_row():
    pairs = [maps(seed, 8, (10 + seed, 20)) for seed in range(9)]
    truths = [np.where(truth == 255, 99, truth).astype(np.uint8) for _, truth in pairs]  # 99 is ignored here
    rows = [{"prediction": mask, "truth": truth, "error": None} for (mask, _), truth in zip(pairs, truths, strict=True)]
    rows.append({"prediction": np.zeros((0, 0), np.uint8), "truth": truths[0], "error": "not an image"})
    columns = {"prediction_column": "prediction", "annotation_column": "truth"}
    found = score_dataset(ray.data.from_items(rows), 8, ignore_index=99, **columns).confusion
    np.testing.assert_array_equal(found, sum(counted(*pair, 8) for pair in pairs))


def test_a_row_that_does_not_fit_is_named():
    rows = [{"segmentation": np.zeros((4, 4), np.uint8), "annotation": np.zeros((4, 4 + i), np.uint8)} for i in (0, 1)]
    with pytest.raises(Exception, match=r"row \d of the batch: the prediction is \(4, 4\) but .* \(4, 5\)"):
        score_dataset(ray.data.from_items(rows), 2)
    with pytest.raises(Exception, match="no column 'mask', only"):
        score_dataset(ray.data.from_items(rows), 2, prediction_column="mask")
