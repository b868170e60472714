"""One protocol everywhere: commands, `BatchPredictor` and `map_batches` make mmsegmentation's masks of large images."""

from __future__ import annotations

import functools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
from PIL import Image
from reference import agreement, decode, encode, picture

from ray_segformer import ImageError, SegformerCheckpoint, SegformerPredictor, architectures
from ray_segformer.air import BatchPredictor

pytestmark = pytest.mark.usefixtures("ray_session")

OPTIONS = {"window": 64, "stride": 50, "flip": True, "scales": (0.75, 1)}
ARGUMENTS = ("--window", 64, "--stride", 50, "--flip", "--scales", 0.75, 1)


@pytest.fixture(scope="module")
def pictures():
    """Of sides that divide by nothing, smaller than a window, and one pixel larger."""
    return [picture(*size, seed) for seed, size in enumerate([(131, 197), (45, 61), (65, 64), (97, 301)])]


@pytest.fixture(scope="module")
def logits(pictures, small):
    return [small.averaged_logits(Image.fromarray(each), **OPTIONS) for each in pictures]


@pytest.fixture(scope="module")
def expected(logits):
    masks = [each.argmax(0).numpy() for each in logits]
    assert len(np.unique(masks[0])) > 1
    return masks


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    (folder / "images").mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    return folder


def test_predict_and_evaluate_make_the_same_masks_and_say_how(
    run_command, folder, small_dir, logits, expected, tmp_path
):
    predict = functools.partial(run_command, "predict", folder / "images", tmp_path / "out", "--model", small_dir)
    code, printed, error = predict(*ARGUMENTS, "--batch-size", 2, "--confidence")
    assert code == 0, error
    rows = pa.parquet.read_table(tmp_path / "out" / "masks").to_pylist()
    masks = [np.asarray(decode(row["segmentation"])) for row in rows]
    assert agreement(masks, expected) >= 0.9999
    for row, mask, each in zip(rows, masks, logits, strict=True):
        confidence = decode(row["confidence"])
        assert confidence.mode == "L"
        np.testing.assert_allclose(np.asarray(confidence), 255 * each.softmax(0).amax(0).numpy(), atol=0.51)
        areas = dict(zip(row["class_ids"], row["class_pixels"], strict=True))
        assert areas == dict(zip(*(each.tolist() for each in np.unique(mask, return_counts=True)), strict=True))
        assert row["class_pixels"] == sorted(row["class_pixels"], reverse=True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    pixels = [sum(int((mask == number).sum()) for mask in masks) for number in range(7)]
    assert [each["id"] for each in summary["classes"]] == list(range(7))
    assert [each["pixels"] for each in summary["classes"]] == pixels
    assert [each["share"] for each in summary["classes"]] == pytest.approx(np.array(pixels) / sum(pixels), abs=1e-6)
    assert [each["images"] for each in summary["classes"]] == [
        sum(number in mask for mask in masks) for number in range(7)
    ]
    largest = int(np.argmax(pixels))
    (line,) = [line for line in printed.splitlines() if line.startswith(f"class {largest} ")]
    assert f" {100 * pixels[largest] / sum(pixels):.2f} % " in line
    sentence = summary["protocol"]
    assert [summary["stages"][stage]["rows"] for stage in ("network", "argmax")] == [4, 4]  # images, not windows
    assert sentence == (
        "windows of 64 pixels every 50, at the image's own size, logits averaged over the scales 0.75, 1, logits "
        "averaged with the mirror image's"
    )
    code, _, error = predict("--window", 64, "--resume")
    assert (
        code == 2
        and "confidence was on, now off; flip was on, now not given" in error
        and "stride was 50, now not given" in error
    )

    # With these masks as annotations, evaluate's own are right everywhere, and those of another protocol are not.
    (folder / "annotations").mkdir()
    for number, mask in enumerate(masks):
        (folder / "annotations" / f"{number}.png").write_bytes(encode(mask))
    accuracies = []
    for name, arguments in (("same", ARGUMENTS), ("other", ())):
        asked = (folder, "--output", tmp_path / name, "--model", small_dir, *arguments)
        code, _, error = run_command("evaluate", *asked)
        assert code == 0, error
        found = json.loads((tmp_path / name / "evaluation.json").read_text())
        accuracies.append(found["overall_accuracy"])
        assert (sentence in found["protocol"]["description"]) == (name == "same")
    assert accuracies[0] == 1 > accuracies[1]


def test_map_batches_and_batch_predictor(pictures, small_dir, expected):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    for architecture in (architectures.dataset, architectures.batch_predictor):
        masks, _ = architecture([encode(each) for each in pictures], checkpoint, workers=1, batch_size=3, **OPTIONS)
        assert agreement(masks, expected) >= 0.9999


@pytest.mark.parametrize("resize, size", [("square", (64, 96)), ("none", None), ("short-side", (512, 1600))])
def test_resize(pictures, small_dir, small, resize, size):
    image = Image.fromarray(pictures[3])
    predictor = BatchPredictor.from_checkpoint(
        SegformerCheckpoint.from_pretrained(small_dir), SegformerPredictor, resize=resize
    )
    (row,) = predictor.predict(ray.data.from_items([{"image": encode(pictures[3])}])).take_all()
    expected = small.mask_at(image, size or (image.height, image.width))
    assert (row["segmentation"] == expected).mean() >= 0.9999


def test_windows_have_no_loss(pictures, small_dir):
    batch = {
        "pixel_values": pictures[0].transpose(2, 0, 1)[None],
        "labels": np.zeros((1, *pictures[0].shape[:2]), np.uint8),
    }
    with pytest.raises(ImageError, match="labels ask for the loss, which windows and scales do not have"):
        SegformerPredictor(str(small_dir), window=64).predict(batch)


def test_pixel_values_of_another_size_than_the_protocol_s_are_refused(pictures, small_dir):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    resized = checkpoint.get_preprocessor().preprocess({"image": pictures[0][None]})
    with pytest.raises(ImageError, match=r'197 x 131 pixels are 96 x 64, which is not this predictor\'s resize="none"'):
        SegformerPredictor(checkpoint, window=64).predict(resized)
