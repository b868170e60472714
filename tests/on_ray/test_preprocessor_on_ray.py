"""The CPU stage on every kind of dataset, against transformers' image processor."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import ray
from PIL import Image
from reference import agreement, encode, labels, objects, picture, resized, small_processor

from ray_segformer import SegformerPreprocessor

pytestmark = pytest.mark.usefixtures("ray_session")

BAD = b"no picture"
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


def dataset(kind: str, paths: list[str]) -> ray.data.Dataset:
    """PICTURES as a dataset of `kind`; the column `id` says which, or `path`."""
    folder = paths[0].rsplit("/", 1)[0]
    if kind == "read_images":
        return ray.data.read_images(folder, include_paths=True)
    if kind == "read_binary_files":
        return ray.data.read_binary_files(folder, include_paths=True).rename_columns({"bytes": "image"})
    if kind == "from_pandas":
        return ray.data.from_pandas(pd.DataFrame({"image": PICTURES, "id": range(3)}))
    if kind.startswith("huggingface"):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("int64")})
        structs = column("structs", paths).tolist()
        table = datasets.Dataset.from_dict({"image": structs, "id": [0, 1, 2]}, features=features)
        if kind == "huggingface table":
            return ray.data.from_arrow(table.with_format("arrow")[:])
        pytest.importorskip("aiohttp", reason="Ray's from_huggingface imports it")
        return ray.data.from_huggingface(table)
    return ray.data.from_items([{"image": cell, "id": i} for i, cell in enumerate(column(kind, paths))])


@pytest.mark.parametrize(
    "kind",
    [
        *("arrays", "pil", "bytes", "paths", "uris", "structs", "read_images", "read_binary_files", "from_pandas"),
        *("huggingface", "huggingface table"),
    ],
)
def test_dataset(kind, preprocessor, picture_files):
    rows = preprocessor.transform(dataset(kind, picture_files)).take_all()
    rows = sorted(rows, key=lambda row: row.get("id", row.get("path")))
    assert len(rows) == 3
    assert set(rows[0]) == {"pixel_values", "original_size", "path" if "path" in rows[0] else "id"}
    assert_preprocessed({name: [row[name] for row in rows] for name in rows[0]})


def test_dataset_of_one_size_in_pandas_format(picture_files):
    given = ray.data.from_numpy(np.stack([PICTURES[0]] * 5)).rename_columns({"data": "image"})
    rows = SegformerPreprocessor(SIZE, batch_format="pandas", batch_size=2).transform(given).take_all()
    assert_preprocessed({name: [row[name] for row in rows] for name in rows[0]}, [0] * 5)


def test_dataset_with_annotations_and_bad_rows(tmp_path, picture_files):
    processor = small_processor(do_reduce_labels=True)
    ids = [array[..., 1] % 9 for array in PICTURES]
    bad = tmp_path / "bad.png"
    bad.write_bytes(encode(PICTURES[0])[:80])
    items = [{"image": path, "mask": encode(mask)} for path, mask in zip(picture_files, ids, strict=True)]
    items.insert(1, {"image": str(bad), "mask": encode(ids[0])})
    preprocessor = SegformerPreprocessor.from_config(
        processor.to_dict(), annotation_column="mask", on_error="keep", batch_size=2
    )
    rows = preprocessor.transform(ray.data.from_items(items, override_num_blocks=1)).take_all()
    assert [row["error"] is None for row in rows] == [True, False, True, True]
    assert f"({bad})" in rows[1]["error"]
    good = [rows[0], *rows[2:]]
    assert_preprocessed({name: [row[name] for row in good] for name in good[0]})
    expected = [labels(processor, Image.fromarray(array), mask) for array, mask in zip(PICTURES, ids, strict=True)]
    assert agreement([row["labels"] for row in good], expected) == 1
    assert [row["mask"] for row in good] == [encode(mask) for mask in ids]


def test_dataset_error_names_the_file(tmp_path, preprocessor, picture_files):
    bad = tmp_path / "broken photo.png"
    bad.write_bytes(BAD)
    items = [{"image": cell} for cell in (*picture_files, str(bad))]
    with pytest.raises(Exception, match=r"broken photo\.png") as caught:
        preprocessor.transform(ray.data.from_items(items)).materialize()
    assert "not an image in a known format" in str(caught.value)
