"""What a model makes of annotations: other ids, ids that it does not know, and datasets that cannot be right."""

from __future__ import annotations

import re

import numpy as np
import pytest
from reference import encode

from ray_segformer import ImageError
from ray_segformer._labels import Labels
from ray_segformer.inputs import InputError


def png(*ids: int, repeat: int = 6) -> bytes:
    """An annotation with a row of each id."""
    kind = np.uint16 if max(ids) > 255 else np.uint8
    return encode(np.repeat(np.array(ids, kind)[:, None], repeat, axis=1))


def rows(*annotations: bytes):
    """A sample of a dataset as `AnnotatedInput` gives it: spread, or all there are."""
    listed = [{"path": f"{number}.jpg", "annotation": annotation} for number, annotation in enumerate(annotations)]
    return lambda count: listed[:: max(1, len(listed) // count)]


def total(labels: Labels, *annotations: bytes) -> np.ndarray:
    return sum(labels.count(labels.class_ids(annotation)) for annotation in annotations)


# Ids


def test_ids_are_mapped_reduced_and_ignored():
    stored = png(0, 3, 9, 40000)
    labels = Labels(5, label_map={3: 1, 9: 4}, ignore_index=40000)
    assert labels.class_ids(stored)[:, 0].tolist() == [0, 1, 4, 255]
    labels = Labels(5, reduce_labels=True, label_map={9: 5}, ignore_index=40000)  # first mapped, then reduced
    assert labels.class_ids(stored)[:, 0].tolist() == [255, 2, 4, 255]
    assert Labels(5, ignored_ids=(255, 2)).class_ids(png(1, 2, 255))[:, 0].tolist() == [1, 255, 255]
    colors = Labels(5, label_colors={(9, 8, 7): 3, (0, 0, 1): 255})
    assert colors.class_ids(encode(np.array([[[9, 8, 7], [0, 0, 1]]], np.uint8))).tolist() == [[3, 255]]
    with pytest.raises(ValueError, match="ignore_index: label_map gives the id 9 the class 4"):
        Labels(5, label_map={9: 4}, ignore_index=9)
    with pytest.raises(ValueError, match="label_map gives 9 the class 5; the model's classes are 0 to 4"):
        Labels(5, label_map={8: 4, 9: 5})
    with pytest.raises(ValueError, match="label_map gives 9 the class 6; the model's classes are 1 to 5"):
        Labels(5, reduce_labels=True, label_map={7: 0, 8: 5, 6: 255, 9: 6})


def test_ids_outside_the_model_are_named_with_what_helps():
    with pytest.raises(ImageError) as raised:
        Labels(4).class_ids(png(0, 3, 7, 182, 255))
    message = str(raised.value)
    assert message.startswith("wrong annotation: the class ids 7, 182 (in 12 of 30 pixels) are none of the model's 4")
    assert "which are 0 to 3" in message and "\n" not in message
    assert all(option in message for option in ("--label-map 7=", "label_map=", "--ignore-index 7", "--labels reduce"))
    with pytest.raises(ImageError, match=r"class ids 6, 65535 .* are 1 to 4; .*--labels as-is \(reduce_labels=False\)"):
        Labels(4, reduce_labels=True).class_ids(png(0, 1, 4, 6, 65535))
    with pytest.raises(ImageError, match=r"class ids 4 \(in 6 of 12 pixels\)"):
        Labels(4).class_ids(png(3, 4))
    with pytest.raises(ImageError, match="class ids 4, 5, 6, 7, 8 and 2 more"):
        Labels(4).class_ids(png(*range(11)))


def test_pixels_are_counted():
    labels = Labels(300)
    assert total(labels, png(0, 299, 255), png(0, 7))[[0, 7, 299, 300]].tolist() == [12, 6, 6, 6]
    assert total(labels, png(0, 299, 255), png(0, 7)).sum() == 5 * 6


# What cannot be right

MASKS = [png(0, 255), png(0), png(255, 0, 255)]


@pytest.mark.parametrize("classes", [2, 150])
def test_masks_of_0_and_255_are_refused_from_a_sample_and_from_the_counts(classes):
    labels = Labels(classes)
    expected = (
        "annotations hold only 0 and 255, and 255 is ignored; if 255 is the foreground, use --label-map 255=1 "
        "(label_map={255: 1}); if 255 is to be ignored, use --ignore-index 255 (ignore_index=255)"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        labels.look(rows(*MASKS))
    with pytest.raises(InputError, match=re.escape(expected)):
        labels.check(total(labels, *MASKS))
    for said in (Labels(classes, label_map={255: 1}), Labels(classes, ignore_index=255)):
        said.look(rows(*MASKS))
        said.check(total(said, *MASKS))


def test_masks_of_0_and_1_of_a_model_that_reduces_labels():
    labels = Labels(2, reduce_labels=True)
    with pytest.raises(InputError, match=r"only 1 and ids that are ignored, 0 among them.*--labels as-is"):
        labels.look(rows(png(0, 1), png(1, 255)))
    with pytest.raises(InputError, match=r"every pixel .* is ignored, because its id is 0 or 255; .*--labels as-is"):
        labels.check(total(labels, *MASKS))
    Labels(2, reduce_labels=True, ignore_index=0).look(rows(png(0, 1)))


def test_a_class_that_is_rare_is_found_before_anything_is_refused():
    plain = [png(0, 255)] * 200
    Labels(3).look(rows(*plain[:77], png(0, 255, 2), *plain))
    with pytest.raises(InputError, match="only 0 and 255"):
        Labels(3).look(rows(*plain))


@pytest.mark.parametrize(
    "annotations", [[png(0)], [png(0), png(1, 255)], [png(1, 255)], [png(2)]], ids=["0", "0 1 255", "1 255", "2"]
)
def test_what_may_be_right_is_not_refused(annotations):
    labels = Labels(3)
    labels.look(rows(*annotations))
    labels.check(total(labels, *annotations))
    assert not labels.in_doubt(total(labels, *annotations))


def test_everything_ignored_is_refused():
    labels = Labels(3)
    for refuse in (lambda: labels.look(rows(png(255))), lambda: labels.check(total(labels, png(255)))):
        with pytest.raises(InputError, match=r"every pixel of the annotations is ignored, because its id is 255;"):
            refuse()
    labels.check(np.zeros(4, np.int64))  # of no image


def test_a_sample_names_the_image_of_an_annotation_that_cannot_be_read():
    with pytest.raises(ImageError, match=r"^1\.jpg: wrong annotation: the class ids 8 "):
        Labels(3).look(rows(png(0), png(8)))
    with pytest.raises(ImageError, match=r"^0\.jpg: null"):
        Labels(3).look(rows(None))


# What is said


def test_classes_that_are_never_or_hardly_annotated_are_said():
    names = {number: f"kind {number}" for number in range(9)}
    labels = Labels(9)
    counts = np.array([10**7, 999, 0, 1001, 0, 0, 0, 0, 0, 5 * 10**9])  # the last ignored: they do not count
    said = {guess.code: guess.message for guess in labels.guesses(counts, names)}
    assert list(said) == ["class-never-annotated", "class-hardly-annotated"]
    assert said["class-never-annotated"].startswith(
        "6 of 9 classes are annotated in no pixel: 2 kind 2, 4 kind 4, 5 kind 5, 6 kind 6, 7 kind 7 and 1 more. "
    )
    assert (
        "1 of 9 classes have less than 0.01% of the annotated pixels: 1 kind 1 (0.01%)."
        in said["class-hardly-annotated"]
    )
    assert labels.guesses(np.full(10, 7), names) == []
