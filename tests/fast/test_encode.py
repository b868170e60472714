"""Masks and confidence as the rows of an output, against NumPy and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from reference import decode, objects

from ray_segformer.jobs import EncodeMasks
from ray_segformer.outputs import ClassAreas


@pytest.mark.parametrize(("dtype", "size"), [(np.uint8, (1031, 2040)), (np.uint16, (40, 60)), (np.uint8, (1, 1))])
def test_areas_and_pixels_are_those_of_the_mask(dtype, size):
    """The first is encoded in several strips, of which the last is narrower."""
    most = np.iinfo(dtype).max  # pixels without data have it
    mask = np.random.default_rng(0).choice([0, 3, 200, most], size, p=[0.2, 0.5, 0.2, 0.1]).astype(dtype)
    mask[-1] = most
    confidence = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(size)
    columns = {"path": ["a"], "index": [0], "name": ["a"], "key": ["a"]}
    (row,) = EncodeMasks(None)(
        {**columns, "segmentation": objects(mask), "confidence": objects(confidence), "error": [""]}
    ).to_pylist()
    ids, counts = np.unique(mask, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    assert (row["class_ids"], row["class_pixels"]) == (ids[order].tolist(), counts[order].tolist())
    assert (row["height"], row["width"]) == size and row["error"] is None
    np.testing.assert_array_equal(np.asarray(decode(row["segmentation"])), mask)
    levels = np.asarray(decode(row["confidence"]))
    assert levels.dtype == np.uint8 and np.abs(levels - 255 * confidence.astype(float)).max() <= 0.5 + 1e-4


def test_of_equal_areas_the_lower_id_is_first():
    columns = {"path": ["a"], "index": [0], "name": ["a"], "key": ["a"]}
    mask = np.array([[9, 2, 5, 5, 9, 2, 7]], np.uint8)
    (row,) = EncodeMasks(None)({**columns, "segmentation": objects(mask)}).to_pylist()
    assert (row["class_ids"], row["class_pixels"]) == ([2, 5, 9, 7], [2, 2, 2, 1])


def test_areas_of_many_images_add_up():
    rng, own, others = np.random.default_rng(0), ClassAreas(), ClassAreas()
    masks = [rng.choice([0, 2, 299], (20, 7 + number)).astype(np.uint16) for number in range(4)] + [np.full((3, 1), 2)]
    columns = {name: list("abcde") for name in ("path", "name", "key")}
    table = EncodeMasks(None)(
        {**columns, "index": range(5), "segmentation": objects(*(mask.astype(np.uint16) for mask in masks))}
    )
    own.add(table[:3])
    others.add(table[3:])
    own.add_lists(others.as_lists())
    pixels = np.concatenate([mask.ravel() for mask in masks])
    assert own.as_json({299: "c", 0: "a", 1: "b", 2: "d"}) == [
        {
            "id": class_id,
            "name": name,
            "pixels": (pixels == class_id).sum(),
            "share": pytest.approx((pixels == class_id).mean(), abs=1e-6),
            "images": sum((mask == class_id).any() for mask in masks),
        }
        for class_id, name in ((0, "a"), (1, "b"), (2, "d"), (299, "c"))
    ]
