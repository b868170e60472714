"""`ray-segformer evaluate`, against transformers' model run by hand by the same protocol."""

import functools
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from reference import Reference, encode, objects, picture, save_small, small_model
from torch.nn import functional
from torchmetrics.classification import MulticlassConfusionMatrix

from ray_segformer import ImageError, SegformerCheckpoint
from ray_segformer.cli import main
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.jobs import EvaluationPredictor, most_confused
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.protocol import Protocol, short_side_size
from ray_segformer.viz import visualize_predictions

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def command(run_command):
    """Runs the command with the session's Ray."""
    return functools.partial(run_command, "evaluate")


def scores(matrix):
    """mIoU and overall accuracy of a confusion matrix, by their definitions."""
    right, union = np.diag(matrix).astype(float), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return (right[union > 0] / union[union > 0]).mean(), right.sum() / matrix.sum()


def mask_of(trained, image, size, flip=False):
    """Class ids by transformers' own network, of an image resized to `size` (width, height)."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    pixels = (pixels - trained.processor.image_mean) / trained.processor.image_std
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        logits = trained.model(pixel_values=tensor).logits
        if flip:
            logits = (logits + trained.model(pixel_values=tensor.flip(3)).logits.flip(3)) / 2
    full = functional.interpolate(logits, size=image.size[::-1], mode="bilinear", align_corners=False)
    return full[0].argmax(0)


def size_by_mmsegmentation(width, height):
    """Short side 512, long side at most 2048, then up to multiples of 32."""
    scale = min(2048 / max(width, height), 512 / min(width, height))
    return tuple(int(np.ceil(int(side * scale + 0.5) / 32)) * 32 for side in (width, height))


@pytest.mark.parametrize(
    "count, options, size_of, flip",
    [
        (3, (), lambda width, height: (512, 512), False),
        (2, ("--resize", "short-side", "--flip"), size_by_mmsegmentation, True),
    ],
    ids=["square", "short-side and flip"],
)
def test_scores_are_those_of_transformers_by_the_same_protocol(
    command, shared, trained, tmp_path, count, options, size_of, flip
):
    folder = tmp_path / "ade20k"
    for kind in ("images", "annotations"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((shared / "data/ade20k" / kind).iterdir())[:count]:
            shutil.copy(path, folder / kind)
    model = shared / "models/segformer-b0-camvid"
    code, printed, error = command(folder, "--model", model, "--output", tmp_path / "out", *options)
    assert code == 0, error
    matrix = MulticlassConfusionMatrix(150, ignore_index=255)
    accuracies = {}
    for path in sorted((folder / "images").glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        annotation = np.asarray(Image.open(folder / "annotations" / f"{path.stem}.png")).astype(np.int64) - 1
        annotation = torch.from_numpy(np.where(annotation < 0, 255, annotation))
        mask = mask_of(trained, image, size_of(*image.size), flip)
        matrix.update(mask, annotation)
        accuracies[str(path)] = (mask == annotation).sum().item() / (annotation != 255).sum().item()
    mean_iou, overall = scores(matrix.compute().numpy())
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["images"] == count
    assert found["mean_iou"] == pytest.approx(mean_iou, abs=1e-4)
    assert found["overall_accuracy"] == pytest.approx(overall, abs=1e-4)
    assert re.search(rf"^mIoU +{found['mean_iou']:.4f}$", printed, re.M)
    assert re.search(rf"^overall accuracy +{found['overall_accuracy']:.4f}$", printed, re.M)
    assert ("mirror image" in printed) == flip and ("short side 512" in printed) == flip
    worst = [image["path"] for image in found["worst"]]
    assert worst == sorted(accuracies, key=accuracies.__getitem__)
    assert [image["accuracy"] for image in found["worst"]] == pytest.approx(sorted(accuracies.values()), abs=1e-4)
    assert Image.open(tmp_path / "out" / "worst.png").height > 100 * count
    assert Image.open(tmp_path / "out" / "confusion.png").width > 300


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three scenes with annotations of the same size."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, height=200, width=300)
    return folder


def test_windows_over_scenes_and_parquet_of_them_and_labels_as_they_are(command, scenes, tmp_path):
    options = ("--window", 160, "--stride", 80, "--batch-size", 2, "--max-pixels", 200 * 300)
    code, printed, error = command(scenes, "--output", tmp_path / "files", *options)
    assert code == 0, error
    of_files = json.loads((tmp_path / "files" / "evaluation.json").read_text())
    assert of_files["protocol"]["window"] == 160 and not of_files["protocol"]["reduce_labels"]
    assert set(of_files["classes"]) == set(CLASSES)
    assert of_files["overall_accuracy"] > 0.6  # the model sees the scenes larger than it learnt them, but sees them
    assert "windows of 160 pixels every 80" in printed

    rows = [
        {"photo": path.read_bytes(), "mask": (scenes / f"annotations/{path.stem}.png").read_bytes()}
        for path in sorted((scenes / "images").iterdir())
    ]
    table = tmp_path / "scenes.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), table)
    columns = ("--image-column", "photo", "--annotation-column", "mask")
    code, _, error = command(table, "--output", tmp_path / "parquet", *columns, *options)
    assert code == 0, error
    of_parquet = json.loads((tmp_path / "parquet" / "evaluation.json").read_text())
    assert of_parquet["images"] == 3 and of_files["mean_iou"] > 0.2
    for score in ("mean_iou", "overall_accuracy", "classes"):
        assert of_parquet[score] == of_files[score]
    code, _, error = command(table, "--output", tmp_path / "out")
    assert code == 2 and "no column 'image', only photo, mask" in error
    pa.parquet.write_table(pa.Table.from_pylist([rows[0], {**rows[1], "mask": None}]), table)
    code, _, error = command(table, "--output", tmp_path / "out", *columns, *options)
    assert code == 1 and "null: there is no annotation" in error


def test_the_model_s_own_ignored_id_is_left_out_and_said(command, tmp_path):
    model = small_model()
    model.config.semantic_loss_ignore_index = 2
    names = [f"class {number}" for number in range(7)]
    names[1] = model.config.id2label[1] = "pool table, billiard table, snooker table"  # as ADE20K calls it
    reference = Reference(save_small(tmp_path / "model", model))
    matrix, pairs = MulticlassConfusionMatrix(7, ignore_index=255), []
    for folder in ("images", "annotations"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for number in range(2):
        image = Image.fromarray(picture(40, 60, seed=number))
        mask = reference.mask(image)
        annotation = (
            np.random.default_rng(number).choice([0, 1, 2, 6, 255, int(mask.max())], mask.shape).astype(np.uint8)
        )
        image.save(tmp_path / "in" / "images" / f"{number}.png")
        Image.fromarray(annotation).save(tmp_path / "in" / "annotations" / f"{number}.png")
        left_out = np.where(annotation == 2, 255, annotation).astype(np.int64)
        matrix.update(torch.from_numpy(mask), torch.from_numpy(left_out))
        pairs.append((image, mask, left_out))
    code, printed, error = command(tmp_path / "in", "--output", tmp_path / "out", "--model", tmp_path / "model")
    assert code == 0, error
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["protocol"]["ignore_index"] == [255, 2]
    assert "annotated pixels of the class id 2 or 255 are left out" in printed
    counts = matrix.compute().numpy()
    mean_iou, accuracy = scores(counts)
    assert found["mean_iou"] == pytest.approx(mean_iou, abs=1e-3)
    assert found["overall_accuracy"] == pytest.approx(accuracy, abs=1e-3)
    # By class, whose names are in the order of their ids; a class that is in neither map, or not annotated, has none.
    right, annotated, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    assert list(found["classes"]) == names
    (of_class_1,) = re.findall(rf"^{names[1]} .*$", printed, re.M)  # as wide as all others
    assert {len(line) for line in re.findall(r"^class \d .*$", printed, re.M)} == {len(of_class_1)}
    for number, own in enumerate(found["classes"].values()):
        for score, whole in (("iou", annotated + predicted - right), ("accuracy", annotated)):
            expected = right[number] / whole[number] if whole[number] else None
            assert own[score] == (expected if expected is None else pytest.approx(expected, abs=5e-3))
    assert found["mean_accuracy"] == pytest.approx(np.mean((right / np.maximum(annotated, 1))[annotated > 0]), abs=1e-3)
    first, *_ = found["classes"].values()
    assert re.search(rf"^class 0 +{first['iou']:.4f} +{first['accuracy']:.4f}$", printed, re.M)
    # The worst images first, each with its annotation and then its mask.
    pairs.sort(key=lambda pair: (pair[1] == pair[2]).sum() / (pair[2] != 255).sum())
    images, masks, annotations = zip(*pairs, strict=True)
    names = dict(enumerate(names))
    sheet = visualize_predictions(images, masks, names, annotations=annotations, names=["scene"] * 2)
    with Image.open(tmp_path / "out" / "worst.png") as worst:
        assert worst.size == sheet.size and (np.asarray(worst) == np.asarray(sheet)).mean() > 0.95  # all but captions


def test_classes_are_confused_by_the_pixels_of_both():
    metrics = SegmentationMetrics(4)
    metrics.confusion[:] = [[9, 0, 1, 0], [0, 9, 3, 0], [0, 0, 9, 0], [0, 0, 0, 9]]
    assert most_confused(metrics) == [2, 1, 0] and most_confused(metrics, 2) == [2, 1]


@pytest.mark.parametrize("size", [(683, 512), (500, 375), (375, 500), (4000, 300), (64, 64)])
def test_short_side_size(size):
    assert short_side_size(*size[::-1]) == size_by_mmsegmentation(*size)[::-1]


def test_what_cannot_be_evaluated_is_refused(command, tmp_path):
    assert main(["evaluate", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    code, _, error = command(tmp_path, "--output", tmp_path / "out", "--stride", 8)
    assert code == 2 and "--window" in error
    with pytest.raises(ValueError, match="leaves gaps"):
        Protocol(window=64, stride=128)
    write_scenes(tmp_path / "scenes", 2, height=64, width=64)
    Image.new("L", (10, 10)).save(tmp_path / "scenes" / "annotations" / "scene_00001.png")
    code, _, error = command(tmp_path / "scenes", "--output", tmp_path / "out")
    assert code == 1 and re.search(r"scene_00001\.jpg: the prediction is \(64, 64\) but .* \(10, 10\)", error)
    assert not (tmp_path / "out").exists()


def test_the_limit_of_pixels_is_for_images_and_their_annotations(command, tmp_path):
    write_scenes(tmp_path / "scenes", 1, height=64, width=80)
    asked = (tmp_path / "scenes", "--output", tmp_path / "out", "--max-pixels")
    code, _, error = command(*asked, 64 * 80 - 1)
    assert code == 1 and re.search(r"scene_00000\.jpg\)?: too large: 80 x 64 pixels, above the limit of 5119", error)
    Image.new("L", (90, 64)).save(tmp_path / "scenes" / "annotations" / "scene_00000.png")
    code, _, error = command(*asked, 64 * 80)  # which the image may have
    assert code == 1 and re.search(r"scene_00000\.jpg\)?: too large: 90 x 64 pixels", error)


@pytest.mark.parametrize(
    "options", [{}, {"resize": "short-side"}, {"window": 64}], ids=["square", "short-side", "window"]
)
def test_however_images_are_resized_the_limit_of_pixels_is_the_same(options):
    batch = {"path": objects("a.png"), "image": objects(encode(picture(64, 80)))}
    checkpoint, protocol = SegformerCheckpoint.demo(), Protocol(**options)
    (mask,) = EvaluationPredictor(checkpoint, protocol=protocol, max_pixels=64 * 80)(batch)["segmentation"]
    assert mask.shape == (64, 80)
    with pytest.raises(ImageError, match=r"too large: 80 x 64 pixels, above the limit of 5119"):
        EvaluationPredictor(checkpoint, protocol=protocol, max_pixels=64 * 80 - 1)(batch)
