"""Unexpected exceptions in a row: they name the row, and are kept like unreadable images."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest
from reference import objects, picture

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer._batch_columns import RowError
from ray_segformer.images import ImageError, cause_of
from ray_segformer.jobs import failure_of

PICTURE = picture(24, 32)


class Raising(os.PathLike):
    """A path that raises when it is read, as a broken column or a decoder may."""

    def __init__(self, error):
        self.error = error

    def __fspath__(self):
        raise self.error


@pytest.fixture(scope="module")
def checkpoint(small_dir):
    return SegformerCheckpoint.from_pretrained(small_dir)


@pytest.mark.parametrize(
    ("error", "said"),
    [(IndexError("list index"), "IndexError: list index"), (ZeroDivisionError(), "ZeroDivisionError")],
)
def test_the_row_is_named(checkpoint, error, said):
    batch = {"image": objects(PICTURE, Raising(error)), "path": objects("a.png", "b.png")}
    for use in (checkpoint.get_preprocessor().preprocess, SegformerPredictor(checkpoint).predict):
        with pytest.raises(RowError) as caught:
            use(batch)
        expected = f'row 1 of the batch (b.png): {said}. Pass on_error="keep" to keep such rows.'
        assert str(caught.value) == expected and caught.value.__cause__ is error
        failure = failure_of(caught.value)
        assert (failure.message, failure.foreseen, failure.keepable) == (expected, False, True)


def test_the_row_is_kept(checkpoint, small):
    batch = {"image": objects(Raising(TypeError("no text")), PICTURE), "path": objects("a", "b")}
    result = SegformerPredictor(checkpoint, on_error="keep").predict(batch)
    assert list(result["error"]) == ["row 0 of the batch (a): TypeError: no text", None]
    assert cause_of(result["error"][0]) == "other"
    assert result["segmentation"][0] is None and result["segmentation"][1].shape == (24, 32)


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_lack_of_memory_is_no_row_s_fault(checkpoint, on_error):
    predictor = SegformerPredictor(checkpoint, on_error=on_error)
    with pytest.raises(RowError, match=r"row 0 of the batch: MemoryError$") as caught:
        predictor.predict({"image": objects(Raising(MemoryError()))})
    assert not failure_of(caught.value).keepable


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interruptions_end_the_job(checkpoint, interruption):
    predictor = SegformerPredictor(checkpoint, on_error="keep")
    with pytest.raises(interruption):
        predictor.predict({"image": objects(Raising(interruption()))})


PIXELS = np.zeros((3, 64, 96), np.uint8)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pixel_values": objects(PIXELS, None)}, "wrong shape: pixel_values of a row are (3, height, width), not ()"),
        ({"original_size": objects((8, 8), 5)}, "TypeError: "),
        ({"original_size": np.array([[8, 8], [8, 0]])}, "wrong shape: "),
        ({"labels": objects(np.zeros((8, 8), int), "abc")}, "wrong annotation: labels are <U3; "),
    ],
    ids=["null pixels", "size of a number", "no height", "labels of text"],
)
def test_columns_that_are_broken_in_one_row(checkpoint, columns, said):
    batch = {"pixel_values": objects(PIXELS, PIXELS), "path": objects("a", "b"), **columns}
    result = SegformerPredictor(checkpoint, on_error="keep").predict(batch)
    assert result["error"][0] is None and result["error"][1].startswith(f"row 1 of the batch (b): {said}")
    assert result["segmentation"][1] is None and result["segmentation"][0] is not None
    with pytest.raises((ImageError, RowError), match=r"^row 1 of the batch \(b\): "):
        SegformerPredictor(checkpoint).predict(batch)


@pytest.mark.parametrize("options", [{}, {"confidence": True}], ids=str)
def test_a_batch_without_rows(options, checkpoint):
    table = SegformerPredictor(checkpoint, on_error="keep", **options)({"image": []})
    assert table.num_rows == 0 and {"segmentation", "error", *options} == {*table.column_names}
    assert SegformerPredictor(checkpoint)(pa.table({"image": pa.array([], pa.binary())})).num_rows == 0
