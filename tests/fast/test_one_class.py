"""Models of one class: masks by a threshold, confidence by the sigmoid, and the loss, as torch and transformers say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Reference, encode, need_openvino, objects, picture, save_small, small_model, small_processor

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.cli import main
from ray_segformer.jobs import EvaluationPredictor
from ray_segformer.protocol import Protocol

PICTURES = [picture(48, 80, seed=1), picture(37, 29, seed=2), picture(48, 80, seed=3)]
THRESHOLD = 0.37

pytestmark = pytest.mark.filterwarnings("ignore:.*has one class")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A model whose logits lie on both sides of all thresholds that are tested."""
    directory = save_small(tmp_path_factory.mktemp("one") / "model", small_model(1))
    reference = Reference(directory)
    with torch.no_grad():
        inputs = reference.processor([Image.fromarray(array) for array in PICTURES], return_tensors="pt")
        logits = reference.model(**inputs).logits
        classifier = reference.model.decode_head.classifier
        scale = 2 / logits.std()
        classifier.bias.copy_(scale * (classifier.bias - logits.mean()))
        classifier.weight *= scale
    save_small(directory, reference.model, reference.processor)
    return Reference(directory)


def foreground(reference, array):
    """The probability of the class, float32 (height, width)."""
    inputs = reference.processor(Image.fromarray(array), return_tensors="pt")
    with torch.no_grad():
        logits = reference.model(**inputs).logits
    resized = torch.nn.functional.interpolate(logits, size=array.shape[:2], mode="bilinear", align_corners=False)
    return torch.sigmoid(resized)[0, 0].numpy()


def assert_masks_by_threshold(masks, reference, threshold=THRESHOLD):
    for mask, array in zip(masks, PICTURES, strict=True):
        probability = foreground(reference, array)
        expected = probability > threshold
        assert mask.dtype == np.uint8 and mask.shape == expected.shape
        assert 0.02 < expected.mean() < 0.98  # neither all foreground nor all background
        clear = np.abs(probability - threshold) > 1e-4
        np.testing.assert_array_equal(mask[clear], expected[clear])
        assert clear.mean() > 0.99


@pytest.mark.parametrize("threshold", [0.2, np.float32(0.5), 0.8])
@pytest.mark.parametrize("confidence", [False, True])
def test_foreground_is_where_the_sigmoid_is_above_the_threshold(reference, threshold, confidence):
    predictor = SegformerPredictor(reference.directory, foreground_threshold=threshold, confidence=confidence)
    result = predictor.predict({"image": objects(*PICTURES)})
    assert_masks_by_threshold(result["segmentation"], reference, threshold)
    assert ("confidence" in result) == confidence


@pytest.mark.parametrize("options", [{}, {"foreground_threshold": THRESHOLD}], ids=["zeros", "threshold"])
def test_confidence_is_the_sigmoid_whatever_the_mask(reference, options):
    result = SegformerPredictor(reference.directory, confidence=True, **options).predict({"image": objects(*PICTURES)})
    for array, confidence in zip(PICTURES, result["confidence"], strict=True):
        assert confidence.dtype == np.float32
        np.testing.assert_allclose(confidence, foreground(reference, array), atol=1e-5)


def test_without_a_threshold_masks_are_those_of_transformers(reference):
    masks = SegformerPredictor(reference.directory).predict({"image": objects(*PICTURES)})["segmentation"]
    for mask, array in zip(masks, PICTURES, strict=True):
        np.testing.assert_array_equal(mask, reference.mask(Image.fromarray(array)))
        assert mask.dtype == np.uint8


@pytest.mark.slow
def test_openvino(reference):
    need_openvino()
    predictor = SegformerPredictor(reference.directory, runtime="openvino", foreground_threshold=THRESHOLD)
    assert_masks_by_threshold(predictor.predict({"image": objects(*PICTURES)})["segmentation"], reference)


def test_map_batches_class_and_rows_that_are_kept(reference):
    predictor = SegformerPredictor(reference.directory, foreground_threshold=THRESHOLD, on_error="keep")
    result = predictor.predict({"image": objects(*map(encode, PICTURES), b"no image")})
    assert_masks_by_threshold(result["segmentation"][:3], reference)
    assert result["segmentation"][3] is None and result["error"][3].startswith("row 3 of the batch: not an image")


def test_sliding_windows_take_the_threshold(reference):
    protocol = Protocol(window=64)
    array = picture(64, 64, seed=5)
    batch = {"path": objects("a"), "image": objects(array)}
    (mask,) = EvaluationPredictor(reference.directory, protocol=protocol, foreground_threshold=THRESHOLD)(batch)[
        "segmentation"
    ]
    inputs = reference.processor(Image.fromarray(array), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        logits = reference.model(**inputs).logits
    resized = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    expected = torch.sigmoid(resized)[0, 0].numpy() > THRESHOLD
    assert 0.02 < expected.mean() < 0.98 and (mask == expected).mean() > 0.999


@pytest.mark.parametrize("options", [{}, {"window": 64}])
def test_a_probability_that_is_the_threshold_is_background(options):
    model = small_model(1)
    for parameter in model.decode_head.classifier.parameters():
        torch.nn.init.zeros_(parameter)  # a sigmoid of 0.5
    checkpoint = SegformerCheckpoint.from_model(model, small_processor())
    for threshold, expected in ((0.5, 0), (0.49, 1)):
        predictor = SegformerPredictor(checkpoint, foreground_threshold=threshold, **options)
        found = predictor.predict({"image": objects(picture(64, 96))})
        assert (found["segmentation"][0] == expected).all()


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, float("nan"), True, "0.5"])
def test_thresholds_that_are_no_probability(reference, threshold):
    with pytest.raises(ValueError, match="foreground_threshold is a probability above 0 and below 1, not"):
        SegformerPredictor(reference.directory, foreground_threshold=threshold)


def test_models_of_other_than_one_class_have_no_threshold(small_dir, tmp_path, capsys):
    for refuse in (
        lambda: SegformerPredictor(small_dir, foreground_threshold=0.5),
        lambda: BatchPredictor.from_checkpoint(
            SegformerCheckpoint.from_pretrained(small_dir), SegformerPredictor, foreground_threshold=0.5
        ),
    ):
        with pytest.raises(ValueError, match="is for models of one class; this one has 7"):
            refuse()
    arguments = ["predict", str(tmp_path), str(tmp_path / "out"), "--model", str(small_dir)]
    assert main([*arguments, "--foreground-threshold", "0.5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ray-segformer: error: foreground_threshold (--foreground-threshold) is for models of one")
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--foreground-threshold", "1"])
    assert ended.value.code == 2
    assert "--foreground-threshold: expected a number above 0 and below 1, got 1" in capsys.readouterr().err


def test_the_warning_names_the_option(reference):
    with pytest.warns(UserWarning, match=r"without a foreground_threshold.*every pixel of a mask gets class 0"):
        SegformerCheckpoint.from_pretrained(reference.directory)


@pytest.mark.parametrize("ignored", [255, 0, 254, -100])
def test_losses_leave_out_ignored_pixels_as_transformers_does(reference, tmp_path, ignored):
    directory = save_small(tmp_path / "model", reference.model, reference.processor)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "semantic_loss_ignore_index": ignored}))
    model = Reference(directory).model
    predictor = SegformerPredictor(directory)
    pixel_values = torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96)
    labels = np.random.default_rng(0).choice([0, 1, 255], (1, 64, 96))
    in_transformers_words = torch.from_numpy(np.where(labels == 255, ignored, labels))
    with torch.no_grad():
        expected = model(pixel_values=pixel_values, labels=in_transformers_words).loss.item()
    found = predictor.predict({"pixel_values": pixel_values.numpy(), "labels": labels})["loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_loss_of_an_image_of_which_no_pixel_counts(reference):
    batch = {"image": objects(*PICTURES), "annotation": objects(None, np.full((37, 29), 255), np.ones((48, 80), int))}
    losses = SegformerPredictor(reference.directory, annotation_column="annotation").predict(batch)["loss"]
    assert np.isnan(losses).tolist() == [True, True, False]


def test_annotations_of_one_class_are_0_and_1(reference):
    batch = {"image": objects(PICTURES[0]), "annotation": objects(np.full((48, 80), 2, np.uint8))}
    with pytest.raises(ValueError, match=r"wrong annotation: it has the class ids \[2\]; expected 0 to 1, or 255"):
        SegformerPredictor(reference.directory, annotation_column="annotation").predict(batch)


def test_masks_of_zeros_are_not_scored(reference, tmp_path, capsys):
    arguments = ["evaluate", str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(reference.directory)]
    assert main(arguments) == 2
    assert "has one class: all pixels of its masks are 0, so there is no score" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
