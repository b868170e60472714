"""`semantic_loss_ignore_index` other than 255: losses are those of transformers, and null annotations have none."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Reference, objects, picture, save_small, small_model, small_processor

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer._labels import Labels
from ray_segformer.images import MAX_PIXELS, ImageError, to_class_ids
from ray_segformer.jobs._evaluate import _Score
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.pretrained import CheckpointError
from ray_segformer.training import TrainingRows
from ray_segformer.training._loop import train_step
from ray_segformer.training._validation import _losses

PICTURES = [picture(40, 70, seed=1), picture(33, 21, seed=2)]
OWN = [0, 3, 254, 255, -100, 65535]


def model_of(tmp_path, ignored, num_labels=7, **settings):
    """A saved model that ignores a class id, as transformers loads it."""
    model = small_model(num_labels)
    model.config.semantic_loss_ignore_index = ignored
    return Reference(save_small(tmp_path / "model", model, small_processor(**settings)))


def transformers_loss(reference, array, annotation, ignored):
    """transformers' loss; its labels have the model's own ignored id wherever an annotation says 255."""
    inputs = reference.processor(
        Image.fromarray(array), segmentation_maps=annotation.astype(np.int64), return_tensors="pt"
    )
    labels = inputs["labels"].masked_fill(inputs["labels"] == 255, ignored)
    with torch.no_grad():
        return reference.model(pixel_values=inputs["pixel_values"], labels=labels).loss.item()


def annotations(ids, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.choice(ids, array.shape[:2]).astype(np.uint16) for array in PICTURES]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", OWN)
@pytest.mark.parametrize("reduce_labels", [False, True])
def test_losses_are_those_of_transformers(tmp_path, ignored, reduce_labels):
    reference = model_of(tmp_path, ignored, do_reduce_labels=reduce_labels)
    maps = annotations([0, 1, 2, 3, 4, 5, 6, 255])
    expected = [transformers_loss(reference, *pair, ignored) for pair in zip(PICTURES, maps, strict=True)]
    predictor = SegformerPredictor(reference.directory, annotation_column="annotation")
    found = predictor.predict({"image": objects(*PICTURES), "annotation": objects(*maps)})["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("ignored", OWN)
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_null_annotations_have_no_loss(tmp_path, ignored, on_error):
    reference = model_of(tmp_path, ignored)
    predictor = SegformerPredictor(reference.directory, annotation_column="annotation", on_error=on_error)
    (first, _) = annotations([1, 2])
    result = predictor.predict({"image": objects(*PICTURES), "annotation": objects(first, None)})
    assert np.isfinite(result["loss"][0]) and np.isnan(result["loss"][1])
    np.testing.assert_array_equal(result["segmentation"][1], reference.mask(Image.fromarray(PICTURES[1])))
    assert list(result.get("error", [None] * 2)) == [None, None]


def test_255_is_a_class_where_the_model_says_so(tmp_path):
    reference = model_of(tmp_path, 65535, num_labels=300)
    maps = annotations([0, 7, 255, 299, 65535])
    expected = []
    for array, annotation in zip(PICTURES, maps, strict=True):
        pixel_values = reference.processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
        size = pixel_values.shape[:1:-1]  # its labels have 8 bits: Pillow resizes these
        labels = np.asarray(Image.fromarray(annotation).resize(size, Image.Resampling.NEAREST)).astype(np.int64)
        with torch.no_grad():
            expected.append(
                reference.model(pixel_values=pixel_values, labels=torch.from_numpy(labels[None])).loss.item()
            )
    predictor = SegformerPredictor(reference.directory, annotation_column="annotation")
    batch = {"image": objects(*PICTURES, PICTURES[0]), "annotation": objects(*maps, None)}
    found = predictor.predict(batch)["loss"]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    assert np.isnan(found[2])
    with pytest.raises(ValueError, match="255 is a class of this model, which ignores 65535; reduce the annotations"):
        SegformerPredictor(reference.directory, annotation_column="annotation", reduce_labels=True)


def test_pixels_that_are_ignored_are_none_of_256_classes_in_a_picture_of_them():
    annotation = np.array([[0, 255, 65535]], np.uint16)
    batch = {"path": ["a"], "image": [b""], "annotation": objects(annotation), "segmentation": [annotation * 0]}
    scored = _Score(Labels(256, ignored_ids=(65535,)), MAX_PIXELS)(batch)
    np.testing.assert_array_equal(to_class_ids(scored["annotation"][0]), annotation)
    assert scored["ignored"] == [1] and scored["accuracy"] == [0.5]


@pytest.mark.parametrize(
    ("ignored", "expected"), [(0, "6, or 255"), (65535, "6, or 255, or 65535"), (255, "6, or 255")]
)
def test_other_ids_are_refused_by_name(tmp_path, ignored, expected):
    reference = model_of(tmp_path, ignored)
    predictor = SegformerPredictor(reference.directory, annotation_column="annotation")
    batch = {"image": objects(PICTURES[0]), "annotation": objects(np.full((40, 70), 77, np.uint8))}
    with pytest.raises(ImageError, match=rf"it has the class ids \[77\]; expected 0 to {expected}; see"):
        predictor.predict(batch)


@pytest.mark.parametrize("ignored", [None, "255", 2.5, True])
def test_an_ignored_id_that_is_none(tmp_path, ignored):
    directory = save_small(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "semantic_loss_ignore_index": ignored}))
    with pytest.raises(CheckpointError, match="semantic_loss_ignore_index is a class id, such as 255, not"):
        SegformerCheckpoint.from_pretrained(directory)


# Training


@pytest.mark.parametrize("ignored", OWN)
@pytest.mark.parametrize("reduce_labels", [False, True])
def test_a_training_step_has_the_loss_of_transformers(tmp_path, ignored, reduce_labels):
    reference = model_of(tmp_path, ignored, do_reduce_labels=reduce_labels)
    maps = annotations([0, 1, 2, 5, 6, 255])
    preprocessor = SegformerPreprocessor.from_pretrained(reference.directory)
    rows = TrainingRows(preprocessor, 7, ignore_index=ignored, augmented=False)
    batch = rows.for_training({"image": objects(*PICTURES), "annotation": objects(*maps)})
    model = copy.deepcopy(reference.model).train()
    inputs = reference.processor(
        [Image.fromarray(array) for array in PICTURES],
        segmentation_maps=[annotation.astype(np.int64) for annotation in maps],
        return_tensors="pt",
    )
    labels = inputs["labels"].masked_fill(inputs["labels"] == 255, ignored)
    torch.manual_seed(0)  # of dropout
    expected = model(pixel_values=inputs["pixel_values"], labels=labels).loss.item()
    model = copy.deepcopy(reference.model)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    found = train_step(model, optimizer, preprocessor, batch, 0.0, False)
    assert found == pytest.approx(expected, rel=1e-5)


def test_losses_of_validation_are_those_of_each_image(tmp_path):
    """Whatever the number of its pixels that count; those without any are left out."""
    reference = model_of(tmp_path, 255)
    pixels = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 6, 255], (3, 64, 96)))
    labels[1, 5:], labels[2] = 255, 255
    with torch.no_grad():
        outputs = [reference.model(pixel_values=pixels[row, None], labels=labels[row, None]) for row in range(3)]
    logits = torch.cat([output.logits for output in outputs]).permute(0, 2, 3, 1)
    total, images = _losses(logits, labels)
    assert images == 2 and total == pytest.approx(sum(output.loss.item() for output in outputs[:2]), rel=1e-5)


def test_a_training_step_without_a_pixel_that_counts(tmp_path):
    reference = model_of(tmp_path, 3)
    preprocessor = SegformerPreprocessor.from_pretrained(reference.directory)
    rows = TrainingRows(preprocessor, 7, ignore_index=3, augmented=False)
    batch = rows.for_training({"image": objects(*PICTURES), "annotation": objects(*annotations([3, 255]))})
    optimizer = torch.optim.SGD(reference.model.parameters(), lr=0)
    assert train_step(reference.model, optimizer, preprocessor, batch, 0.0, False) is None


def test_ids_of_16_bits_become_255_before_they_are_augmented(tmp_path):
    rows = TrainingRows(SegformerPreprocessor(32), 7, ignore_index=65535)
    (annotation, _) = annotations([1, 65535])
    batch, (found,), _ = rows.for_validation({"image": objects(PICTURES[0]), "annotation": objects(annotation)})
    np.testing.assert_array_equal(found, np.where(annotation == 65535, 255, 1))
    assert found.dtype == np.uint8 and set(np.unique(batch["labels"])) == {1, 255}
    with pytest.raises(ImageError, match=r"wrong annotation: the class ids 9 .* which are 0 to 6;"):
        rows.for_training({"image": objects(PICTURES[0]), "annotation": objects(annotation * 0 + 9)})
