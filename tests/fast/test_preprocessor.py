"""The CPU stage against transformers' image processor, on every kind of batch.

Datasets are in tests/on_ray/test_preprocessor_on_ray.py.
"""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ray import cloudpickle
from reference import encode, labels, objects, picture, resized, small_processor
from transformers import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import BatchMapper, ImageError, SegformerPreprocessor

SIZE = {"height": 64, "width": 96}
SMALL = small_processor()
# What became of pictures of three sizes, by transformers.
PICTURES = [picture(40, 60, 1), picture(90, 50, 2), picture(33, 77, 3)]
EXPECTED = np.stack([resized(SMALL, Image.fromarray(array)) for array in PICTURES])
SIZES = np.array([[40, 60], [90, 50], [33, 77]], np.int32)


@pytest.fixture
def preprocessor() -> SegformerPreprocessor:
    return SegformerPreprocessor(SIZE)


@pytest.fixture
def picture_files(tmp_path) -> list[str]:
    """The files of PICTURES, in the order of their names."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(len(PICTURES))]
    for path, array in zip(paths, PICTURES, strict=True):
        path.write_bytes(encode(array))
    return [str(path) for path in paths]


def assert_preprocessed(batch, rows=(0, 1, 2)) -> None:
    """`pixel_values` and `original_size` are those of PICTURES, and there is no image column."""
    rows = list(rows)
    pixel_values, sizes = np.stack(list(batch["pixel_values"])), np.stack(list(batch["original_size"]))
    assert (pixel_values.dtype, sizes.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(pixel_values, EXPECTED[rows])
    np.testing.assert_array_equal(sizes, SIZES[rows])
    assert "image" not in batch


# -- against transformers ---------------------------------------------------------------------------


@pytest.mark.slow
def test_real_images_to_the_byte(shared, real_images):
    processor = SegformerImageProcessorPil.from_pretrained(shared / "models/segformer-b0-ade-config")
    preprocessor = SegformerPreprocessor.from_pretrained(shared / "models/segformer-b0-ade-config")
    assert len(real_images) >= 30
    for path in real_images:
        batch = preprocessor.transform_batch({"image": objects(str(path))})
        with Image.open(path) as image:
            assert batch["original_size"].tolist() == [[image.height, image.width]]
            expected = resized(processor, image)
        np.testing.assert_array_equal(batch["pixel_values"][0], expected, err_msg=path.name)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(picture(41, 67)[..., 0]),
        Image.fromarray(np.dstack([picture(41, 67), picture(41, 67)[..., 1]])),
        Image.fromarray(picture(41, 67)).convert("CMYK"),
        Image.fromarray(picture(41, 67)).quantize(16),
        Image.fromarray(picture(1, 1)),
        Image.fromarray(picture(1, 200)),
        Image.fromarray(picture(313, 3)),
        Image.fromarray(picture(64, 96)),
        Image.fromarray(picture(700, 1001)),
    ],
    ids=["grey", "rgba", "cmyk", "palette", "one pixel", "one row", "3 wide", "size as wanted", "large"],
)
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST])
def test_odd_images_to_the_byte(image, resample):
    batch = SegformerPreprocessor(SIZE, resample=resample).transform_batch({"image": objects(image)})
    expected = resized(small_processor(resample=resample), image.convert("RGB"))
    np.testing.assert_array_equal(batch["pixel_values"][0], expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5, 0.25, 0.125], "image_std": [1.0, 2.0, 0.5]},
    ],
    ids=str,
)
def test_normalize(settings):
    processor = small_processor(**settings)
    preprocessor = SegformerPreprocessor.from_config(processor.to_dict())
    batch = preprocessor.transform_batch({"image": objects(*PICTURES)})
    before = batch["pixel_values"].copy()
    result = preprocessor.normalize(torch.from_numpy(batch["pixel_values"]))
    expected = processor([Image.fromarray(array) for array in PICTURES], return_tensors="pt").pixel_values
    assert result.dtype == torch.float32 and result.shape == (3, 3, 64, 96)
    torch.testing.assert_close(result, expected.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(preprocessor.normalize(torch.from_numpy(before[1])), result[1])  # without a batch
    np.testing.assert_array_equal(batch["pixel_values"], before)


@pytest.mark.parametrize("reduce", [False, True])
def test_labels_of_all_class_ids(reduce):
    ids = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)
    processor = small_processor(size={"height": 57, "width": 43}, do_reduce_labels=reduce)
    expected = labels(processor, Image.fromarray(picture(32, 32)), ids)
    assert len(np.unique(expected)) > 200 and 255 in expected and (0 in expected)
    preprocessor = SegformerPreprocessor.from_config(processor.to_dict(), annotation_column="mask")
    batch = preprocessor.transform_batch({"image": objects(picture(32, 32)), "mask": objects(ids)})
    assert batch["labels"].dtype == np.uint8
    np.testing.assert_array_equal(batch["labels"][0], expected)


@pytest.mark.parametrize("reduce", [False, True])
def test_labels_of_real_annotations(shared, real_pairs, reduce):
    processor = SegformerImageProcessorPil.from_pretrained(
        shared / "models/segformer-b0-ade-config", do_reduce_labels=reduce
    )
    preprocessor = SegformerPreprocessor.from_config(processor.to_dict(), annotation_column="annotation")
    for image_path, annotation_path in real_pairs:
        batch = preprocessor.transform_batch(
            {"image": objects(str(image_path)), "annotation": objects(str(annotation_path))}
        )
        annotation = np.array(Image.open(annotation_path))
        expected = labels(processor, Image.open(image_path), annotation)
        np.testing.assert_array_equal(batch["labels"][0], expected)


def test_labels_above_255():
    ids = np.arange(600, dtype=np.uint16).reshape(20, 30)
    preprocessor = SegformerPreprocessor({"height": 20, "width": 30}, annotation_column="annotation")
    batch = preprocessor.transform_batch({"image": objects(picture(20, 30)), "annotation": objects(ids)})
    assert batch["labels"].dtype == np.uint16
    np.testing.assert_array_equal(batch["labels"][0], ids)


def test_missing_annotation_is_all_ignored():
    preprocessor = SegformerPreprocessor(SIZE, annotation_column="annotation")
    ids = np.full((40, 60), 3, np.uint8)
    batch = preprocessor.transform_batch(
        {"image": objects(PICTURES[0], PICTURES[0], PICTURES[0]), "annotation": objects(None, ids, np.nan)}
    )
    assert [np.unique(row).tolist() for row in batch["labels"]] == [[255], [3], [255]]
    assert "annotation" in batch


def test_without_resizing():
    preprocessor = SegformerPreprocessor(SIZE, do_resize=False, annotation_column="annotation")
    ids = [array[..., 0] for array in PICTURES]
    batch = preprocessor.transform_batch({"image": objects(*PICTURES), "annotation": objects(*ids)})
    for row, array in enumerate(PICTURES):
        np.testing.assert_array_equal(batch["pixel_values"][row], array.transpose(2, 0, 1))
        np.testing.assert_array_equal(batch["labels"][row], ids[row])
    np.testing.assert_array_equal(batch["original_size"], SIZES)
    equal = preprocessor.transform_batch({"image": np.stack([PICTURES[0]] * 2), "annotation": np.stack([ids[0]] * 2)})
    assert equal["pixel_values"].shape == (2, 3, 40, 60) and equal["labels"].shape == (2, 40, 60)


# -- batches ----------------------------------------------------------------------------------------


def column(kind: str, paths: list[str]) -> np.ndarray:
    """PICTURES as a column of `kind`."""
    data = [encode(array) for array in PICTURES]
    return {
        "arrays": objects(*PICTURES),
        "pil": objects(*map(Image.fromarray, PICTURES)),
        "bytes": objects(*data),
        "paths": objects(*paths),
        "text": np.array(paths),
        "uris": objects(*(f"file://{path}" for path in paths)),
        "structs": objects({"bytes": data[0], "path": None}, {"bytes": None, "path": paths[1]}, {"bytes": data[2]}),
        "mixed": objects(PICTURES[0], paths[1], data[2]),
    }[kind]


@pytest.mark.parametrize("kind", ["arrays", "pil", "bytes", "paths", "text", "uris", "structs", "mixed"])
@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_columns(kind, batch_format, picture_files):
    batch = {"image": column(kind, picture_files), "id": np.array([7, 8, 9]), "name": np.array(["a", "b", "c"])}
    given = pd.DataFrame({k: list(v) for k, v in batch.items()}) if batch_format == "pandas" else dict(batch)
    result = SegformerPreprocessor(SIZE, batch_format=batch_format).transform_batch(given)
    assert isinstance(result, pd.DataFrame if batch_format == "pandas" else dict)
    assert_preprocessed(result)
    assert list(result["id"]) == [7, 8, 9] and list(result["name"]) == ["a", "b", "c"]
    assert set(result) == {"id", "name", "pixel_values", "original_size"}
    assert "image" in given


@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_the_other_format_is_converted(batch_format, preprocessor):
    images = objects(*PICTURES)
    given = pd.DataFrame({"image": list(images), "id": [1, 2, 3]})
    if batch_format == "numpy":
        assert_preprocessed(preprocessor.transform_batch(given))
    else:
        given = {"image": images, "id": np.arange(3)}
        assert_preprocessed(SegformerPreprocessor(SIZE, batch_format="pandas").transform_batch(given))


def test_dataframe_with_only_images(preprocessor):
    assert_preprocessed(preprocessor.transform_batch(pd.DataFrame({"image": PICTURES})))


def test_dataframe_keeps_its_index():
    frame = pd.DataFrame({"image": PICTURES}, index=[30, 10, 20])
    result = SegformerPreprocessor(SIZE, batch_format="pandas").transform_batch(frame)
    assert result.index.tolist() == [30, 10, 20]
    assert_preprocessed(result)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("bare", [False, True])
def test_arrays_of_one_size(preprocessor, rows, bare):
    images = np.stack([PICTURES[0]] * rows)
    images.flags.writeable = False
    assert_preprocessed(preprocessor.transform_batch(images if bare else {"image": images}), [0] * rows)


def test_bare_array_of_different_sizes(preprocessor):
    assert_preprocessed(preprocessor.transform_batch(objects(*PICTURES)))


@pytest.mark.parametrize("grey", [np.stack([PICTURES[0][..., 0]] * 2), np.stack([PICTURES[0][..., :1]] * 2)])
def test_bare_array_of_grey_images(preprocessor, grey):
    batch = preprocessor.transform_batch(grey)
    expected = resized(SMALL, Image.fromarray(PICTURES[0][..., 0]).convert("RGB"))
    np.testing.assert_array_equal(batch["pixel_values"], np.stack([expected] * 2))


@pytest.mark.parametrize("channels", [3, 4])
def test_one_image_is_no_batch(preprocessor, channels):
    with pytest.raises(ValueError, match=r"is one image.*\(N, H, W, 3\)"):
        preprocessor.transform_batch(np.zeros((40, 60, channels), np.uint8))


def test_read_only_batches_stay_as_they_are(preprocessor):
    arrays = [array.copy() for array in PICTURES]
    images, ids = objects(*arrays), np.arange(3)
    for array in (*arrays, images, ids):
        array.flags.writeable = False
    batch = {"image": images, "id": ids}
    assert_preprocessed(preprocessor.transform_batch(batch))
    assert set(batch) == {"image", "id"} and batch["image"] is images
    for array, before in zip(arrays, PICTURES, strict=True):
        np.testing.assert_array_equal(array, before)


def test_preprocessed_batch_passes(preprocessor):
    batch = preprocessor.transform_batch({"image": objects(*PICTURES), "id": np.arange(3)})
    again = preprocessor.transform_batch(batch)
    assert_preprocessed(again)
    assert set(again) == set(batch)
    floats = {"pixel_values": np.ones((2, 3, 8, 8), np.float32)}
    assert preprocessor.transform_batch(floats)["pixel_values"] is floats["pixel_values"]


@pytest.mark.parametrize("on_error", ["raise", "keep"])
@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_empty_batch(on_error, batch_format):
    preprocessor = SegformerPreprocessor(
        SIZE, annotation_column="annotation", on_error=on_error, batch_format=batch_format
    )
    batch = {"image": np.empty(0, object), "annotation": np.empty(0, object), "id": np.empty(0, np.int64)}
    given = pd.DataFrame(batch) if batch_format == "pandas" else batch
    result = preprocessor.transform_batch(given)
    expected = {"annotation", "id", "pixel_values", "original_size", "labels"}
    assert set(result) == expected | ({"error"} if on_error == "keep" else set())
    assert all(len(result[name]) == 0 for name in result)
    if batch_format == "numpy":
        assert result["pixel_values"].shape == (0, 3, 64, 96) and result["pixel_values"].dtype == np.uint8
        assert result["original_size"].shape == (0, 2) and result["labels"].shape == (0, 64, 96)


def test_names_of_columns():
    preprocessor = SegformerPreprocessor(SIZE, image_column="photo", annotation_column="mask")
    ids = objects(*(array[..., 0] for array in PICTURES))
    result = preprocessor.transform_batch({"photo": objects(*PICTURES), "mask": ids, "image": np.arange(3)})
    assert set(result) == {"mask", "image", "pixel_values", "original_size", "labels"}
    np.testing.assert_array_equal(result["pixel_values"], EXPECTED)
    assert result["image"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "missing"),
    [({}, "image"), ({"image_column": "photo"}, "photo"), ({"image_column": "x", "annotation_column": "mask"}, "mask")],
)
def test_missing_column(options, missing):
    batch = {"x": objects(PICTURES[0]), "y": np.zeros(1)}
    with pytest.raises(ValueError, match=rf"no column '{missing}', only \['x', 'y'\]; name the right one"):
        SegformerPreprocessor(SIZE, **options).transform_batch(batch)


# -- errors -----------------------------------------------------------------------------------------

BAD = b"no picture"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": objects(PICTURES[0], BAD)}, r"row 1 of the batch: not an image in a known format"),
        ({"image": objects(PICTURES[0], None)}, r"row 1 of the batch: null"),
        ({"image": objects(PICTURES[0], np.nan)}, r"row 1 of the batch: null"),
        ({"image": objects(PICTURES[0], "no/file.png")}, r"row 1 of the batch \(no/file.png\): cannot read"),
        ({"image": objects(PICTURES[0], {"bytes": BAD, "path": "a.png"})}, r"row 1 of the batch \(a.png\): not an"),
        ({"image": objects(PICTURES[0], BAD), "path": objects("a", "b.png")}, r"row 1 of the batch \(b.png\): not an"),
        ({"image": np.zeros((2, 4, 4, 2), np.uint8)}, r"row 0 of the batch: .*not \(4, 4, 2\)"),
        ({"image": np.zeros((2, 4, 4, 3), np.float32)}, r"row 0 of the batch: .*not float32"),
    ],
)
def test_error_names_row_path_and_cause(preprocessor, batch, message):
    with pytest.raises(ImageError, match=message) as caught:
        preprocessor.transform_batch(batch)
    assert 'on_error="keep"' in str(caught.value)


def test_annotation_errors():
    preprocessor = SegformerPreprocessor(SIZE, annotation_column="annotation")
    image = objects(PICTURES[0])
    for annotation, message in (
        (np.zeros((60, 40), np.uint8), r"annotation is \(60, 40\) but its image is \(40, 60\).* EXIF"),
        (PICTURES[0], "colours, not class ids"),
        (BAD, "known format"),
    ):
        with pytest.raises(ImageError, match=rf"row 0 of the batch: .*{message}"):
            preprocessor.transform_batch({"image": image, "annotation": objects(annotation)})


@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_keep(batch_format):
    preprocessor = SegformerPreprocessor(
        SIZE, on_error="keep", annotation_column="annotation", batch_format=batch_format
    )
    ids = PICTURES[0][..., 0] % 5
    batch = {
        "image": objects(PICTURES[0], BAD, None, PICTURES[0], PICTURES[2]),
        "annotation": objects(ids, ids, ids, BAD, None),
        "path": objects("a", "b", "c", "d", "e"),
    }
    given = pd.DataFrame({k: list(v) for k, v in batch.items()}) if batch_format == "pandas" else batch
    result = preprocessor.transform_batch(given)
    errors = list(result["error"])
    assert pd.isna(errors).tolist() == [True, False, False, False, True]
    assert "row 1 of the batch (b): not an image" in errors[1]
    assert "row 2 of the batch (c): null" in errors[2]
    assert "row 3 of the batch (d): wrong annotation: not an image" in errors[3]
    assert list(result["path"]) == ["a", "b", "c", "d", "e"]
    pixel_values = np.stack(list(result["pixel_values"]))
    np.testing.assert_array_equal(pixel_values[[0, 4]], EXPECTED[[0, 2]])
    assert not pixel_values[1:4].any()
    assert np.stack(list(result["original_size"])).tolist() == [[40, 60], [0, 0], [0, 0], [0, 0], [33, 77]]
    label_rows = np.stack(list(result["labels"]))
    assert (label_rows[1:] == 255).all() and label_rows[0].max() == 4


def test_keep_without_resizing():
    preprocessor = SegformerPreprocessor(SIZE, on_error="keep", do_resize=False)
    result = preprocessor.transform_batch({"image": objects(PICTURES[0], BAD)})
    np.testing.assert_array_equal(result["pixel_values"][0], PICTURES[0].transpose(2, 0, 1))
    assert result["error"][0] is None and result["original_size"].tolist() == [[40, 60], [0, 0]]


def test_keep_leaves_earlier_errors():
    preprocessor = SegformerPreprocessor(SIZE, on_error="keep")
    batch = {"image": objects(PICTURES[0], PICTURES[1]), "error": objects("lost before", None)}
    result = preprocessor.transform_batch(batch)
    assert list(result["error"]) == ["lost before", None]
    assert not result["pixel_values"][0].any()
    np.testing.assert_array_equal(result["pixel_values"][1], EXPECTED[1])


# -- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": -3},
        {"size": 12.5},
        {"size": "512"},
        {"size": True},
        {"size": float("inf")},
        {"size": {"height": 3}},
        {"size": {"longest_edge": 512}},
        {"size": {"height": 3, "width": 0}},
        {"resample": 77},
        {"resample": "bilinear"},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"rescale_factor": "much"},
        {"on_error": "ignore"},
        {"batch_format": "arrow"},
        {"batch_format": None},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ValueError):
        SegformerPreprocessor(**options)


def test_is_a_batch_mapper(preprocessor):
    assert isinstance(preprocessor, BatchMapper)
    assert repr(preprocessor) == "SegformerPreprocessor(size=(64, 96), image_column='image')"


SETTINGS = {
    "size": {"height": 100, "width": 120},
    "do_resize": False,
    "resample": 3,
    "do_rescale": False,
    "rescale_factor": 0.25,
    "do_normalize": False,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "do_reduce_labels": True,
}


def test_transformers_loads_what_we_save(tmp_path):
    SegformerPreprocessor(**SETTINGS).save_pretrained(tmp_path / "new" / "folder")
    for load in (SegformerImageProcessorPil.from_pretrained, AutoImageProcessor.from_pretrained):
        loaded = load(tmp_path / "new" / "folder")
        assert type(loaded).__name__.startswith("SegformerImageProcessor")
        for name, value in SETTINGS.items():
            found = getattr(loaded, name)
            found = list(found) if isinstance(found, tuple) else found
            assert (dict(found) == value) if name == "size" else (found == value), name


def test_we_load_what_transformers_saves(tmp_path):
    SegformerImageProcessorPil(**SETTINGS).save_pretrained(tmp_path)
    loaded = SegformerPreprocessor.from_pretrained(tmp_path)
    assert {name: loaded.to_config()[name] for name in SETTINGS} == SETTINGS


def test_round_trip(tmp_path):
    preprocessor = SegformerPreprocessor(**SETTINGS)
    preprocessor.save_pretrained(tmp_path)
    assert SegformerPreprocessor.from_pretrained(tmp_path).to_config() == preprocessor.to_config()


def test_defaults_are_those_of_transformers():
    assert SegformerPreprocessor().to_config() == SegformerPreprocessor.from_config({}).to_config()
    theirs, ours = SegformerImageProcessorPil().to_dict(), SegformerPreprocessor().to_config()
    for name in SETTINGS:
        found = theirs[name]
        found = dict(found) if name == "size" else list(found) if isinstance(found, tuple) else found
        assert ours[name] == found, name


def test_old_config():
    config = {
        "feature_extractor_type": "SegformerFeatureExtractor",
        "size": 512,
        "reduce_labels": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 2,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    expected = SegformerPreprocessor(512, do_reduce_labels=True).to_config()
    assert SegformerPreprocessor.from_config(config).to_config() == expected
    newer = {"image_processor_type": "SegformerFeatureExtractor", "reduce_labels": True, "do_reduce_labels": False}
    assert SegformerPreprocessor.from_config(newer).do_reduce_labels is False
    assert set(config) == {*config} and "do_reduce_labels" not in config  # the caller's dict is left alone


def test_config_of_the_hub(shared):
    preprocessor = SegformerPreprocessor.from_pretrained(shared / "models/segformer-b0-ade-config")
    assert preprocessor.to_config() == SegformerPreprocessor(512, do_reduce_labels=True).to_config()


def test_options_win_over_the_config(tmp_path):
    SegformerPreprocessor(**SETTINGS).save_pretrained(tmp_path)
    loaded = SegformerPreprocessor.from_pretrained(
        tmp_path, size=32, image_column="photo", on_error="keep", do_reduce_labels=False
    )
    assert (loaded.height, loaded.width, loaded.image_column, loaded.on_error) == (32, 32, "photo", "keep")
    assert loaded.do_reduce_labels is False and loaded.image_mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "content", ["{", "[1, 2]", '{"size": {"longest_edge": 3}}', '{"image_mean": [3]}', '{"resample": "x"}', "\xff"]
)
def test_broken_config_file(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        SegformerPreprocessor.from_pretrained(tmp_path)


def test_missing_config_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        SegformerPreprocessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_pickles(pickler):
    preprocessor = SegformerPreprocessor(SIZE, do_reduce_labels=True, image_column="photo", on_error="keep")
    copy = pickler.loads(pickler.dumps(preprocessor))
    assert copy.to_config() == preprocessor.to_config()
    result = copy.transform_batch({"photo": objects(*PICTURES, None)})
    np.testing.assert_array_equal(result["pixel_values"][:3], EXPECTED)
    assert "row 3 of the batch: null" in result["error"][3]


def test_config_file_is_plain_json(tmp_path, preprocessor):
    preprocessor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == SIZE


def test_settings_of_a_processor_come_first_as_in_a_checkpoint(tmp_path):
    SegformerPreprocessor(32).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 64}}))
    assert SegformerPreprocessor.from_pretrained(tmp_path).height == 64
