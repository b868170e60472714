"""Raw images in a column called `pixel_values`, as some published datasets have them."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from reference import Reference, encode, objects, picture, save_small

from ray_segformer import SegformerPredictor, SegformerPreprocessor

PICTURES = [picture(40, 60, 1), picture(33, 77, 2), picture(50, 50, 3)]
NAME = "pixel_values"
KINDS = {
    "bytes": lambda path: [encode(image) for image in PICTURES],
    "structs": lambda path: [{"bytes": encode(image), "path": None} for image in PICTURES],
    "pil": lambda path: [Image.fromarray(image) for image in PICTURES],
    "arrays": lambda path: PICTURES,
    "paths": lambda path: [str(write(path / f"{i}.png", image)) for i, image in enumerate(PICTURES)],
}


def write(path, image):
    path.write_bytes(encode(image))
    return path


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def masks(small_dir):
    reference = Reference(small_dir)
    return [reference.mask(Image.fromarray(image)) for image in PICTURES]


def predictor(small_dir, **options):
    return SegformerPredictor(str(small_dir), use_gpu=False, dtype="float32", **options)


def assert_masks(predicted, masks):
    for mask, expected in zip(predicted, masks, strict=True):
        assert mask.shape == expected.shape and (mask == expected).mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_masks_are_those_of_the_images(small_dir, masks, tmp_path, kind, batch_format):
    column = objects(*KINDS[kind](tmp_path))
    batch = pd.DataFrame({NAME: list(column)}) if batch_format == "pandas" else {NAME: column}
    assert_masks(predictor(small_dir, image_column=NAME).predict(batch)["segmentation"], masks)
    preprocessor = SegformerPreprocessor.from_pretrained(small_dir, image_column=NAME, batch_format=batch_format)
    preprocessed = preprocessor.transform_batch(batch)
    assert list(preprocessed) == [NAME, "original_size"]
    for image_column in (NAME, "image"):
        predicted = predictor(small_dir, image_column=image_column)(preprocessed)
        assert list(predicted) == ["segmentation"]
        assert_masks(predicted["segmentation"], masks)


@pytest.mark.parametrize("dtype", [np.uint8, object])
def test_bare_arrays(small_dir, masks, dtype):
    images = np.stack([PICTURES[0]] * 2) if dtype == np.uint8 else objects(*[encode(PICTURES[0])] * 2)
    assert_masks(predictor(small_dir, image_column=NAME).predict(images)["segmentation"], [masks[0]] * 2)


def test_arrow_tables_keep_the_other_columns(small_dir, masks):
    table = pa.table({NAME: [encode(image) for image in PICTURES], "index": [4, 5, 6]})
    result = predictor(small_dir, image_column=NAME)(table)
    assert result.column_names == ["segmentation", "index"]


def test_rows_with_errors_are_kept(small_dir, masks):
    batch = {NAME: objects(encode(PICTURES[0]), b"text", None)}
    result = predictor(small_dir, image_column=NAME, on_error="keep").predict(batch)
    assert_masks(result["segmentation"][:1], masks[:1])
    assert result["error"][0] is None and "not an image" in result["error"][1] and "null" in result["error"][2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_without_its_name_the_error_says_how_to_name_it(small_dir, tmp_path, kind, on_error):
    batch = {NAME: objects(None, *KINDS[kind](tmp_path))}
    for refuse in (
        predictor(small_dir, on_error=on_error).predict,
        SegformerPreprocessor(64, on_error=on_error, image_column="photo").transform_batch,
    ):
        with pytest.raises(ValueError, match=r'holds raw images .*image_column="pixel_values"'):
            refuse(batch)


@pytest.mark.slow
def test_pixel_values_of_transformers_are_not_raw(small_dir, masks):
    pixel_values = Reference(small_dir).processor(PICTURES[0], return_tensors="np").pixel_values
    mask = predictor(small_dir).predict({NAME: pixel_values})["segmentation"][0]
    assert mask.shape == pixel_values.shape[2:]
    deep = io.BytesIO(encode(PICTURES[0])).getvalue()
    assert_masks(predictor(small_dir).predict({"image": objects(deep)})["segmentation"], masks[:1])
