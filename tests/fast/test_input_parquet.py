"""Parquet whose columns hold paths, and columns of every type that can hold images. No Ray is started."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer.images import ImageError, cause_of, to_rgb
from ray_segformer.inputs import InputError, find_images, find_parquet


def png(width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, 5), (width, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def widths(rows, column="image"):
    return [to_rgb(row[column]).shape[1] for row in rows]


@pytest.fixture
def images(tmp_path):
    """`table/photos/{3,4}.png` and `other/5.png`."""
    for name in ("table/photos/3.png", "table/photos/4.png", "other/5.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(int(path.stem)))
    return tmp_path


def write(folder, columns):
    pa.parquet.write_table(pa.table(columns), folder / "in.parquet")
    return str(folder / "in.parquet")


TEXTS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
@pytest.mark.parametrize("column", ["image", "path", "image_path", "file_name"])
def test_paths_are_relative_to_the_parquet_file(images, monkeypatch, kind, column):
    monkeypatch.chdir(images / "other")
    other = images / "other" / "5.png"
    texts = ["photos/3.png", "../other/5.png", str(other), other.as_uri(), "photos/4.png"]
    found = find_images(write(images / "table", {"label": [1] * 5, column: pa.array(texts).cast(kind)}))
    rows = found.take(9)
    assert widths(rows) == [3, 5, 5, 5, 4] and found.rows == 5
    assert rows[0]["path"] == str(images / "table/photos/3.png") and rows[3]["path"] == other.as_uri()
    assert rows[0]["name"] == "photos/3" and rows[1]["name"] == "other/5"
    assert rows[2]["name"] == rows[3]["name"] == str(other)[1:-4]
    assert found.guesses == []


def test_rows_without_an_image_are_told_by_their_place(tmp_path):
    path = write(tmp_path, {"image": pa.array([png(3), None, b"", None], pa.binary())})
    rows = find_images(path).take(9)
    assert [row["path"] for row in rows[1:]] == [f"{path}#{row}" for row in (1, 2, 3)]
    assert rows[0]["path"].startswith("image-") and len({row["name"] for row in rows}) == 4


def test_a_folder_of_parquet_has_paths_relative_to_each_file(images):
    for folder, text in (("table", "photos/4.png"), ("other", "5.png")):
        write(images / folder, {"image": [text]})
    (images / "only").mkdir()
    for folder in ("table", "other"):
        (images / "only" / folder).symlink_to(images / folder)
    rows = find_parquet(str(images / "only"), annotation_column="image").take(9)
    assert widths(rows) == [5, 4] == widths(rows, "annotation")


def test_structs_may_have_a_path_in_place_of_bytes(images):
    cells = [{"bytes": None, "path": "photos/3.png"}, {"bytes": png(9), "path": "photos/3.png"}, None]
    source = write(images / "table", {"image": cells, "path": ["x", "y", "z"]})
    rows = find_images(source).take(9)
    assert widths(rows[:2]) == [3, 9] and rows[2]["image"] is None
    assert [row["path"] for row in rows] == [str(images / "table/photos/3.png"), "y", "z"]
    assert [row["name"] for row in rows] == ["photos/3", "y", "z"]
    source = write(images / "table", {"photo": [{"bytes": None, "path": "photos/4.png"}]})  # `bytes` has no type here
    assert widths(find_images(source).take(9)) == [4]


def test_annotations_may_be_paths_too(images):
    for annotation in ("photos/4.png", {"bytes": None, "path": "photos/4.png"}):
        source = write(images / "table", {"image": [png(9)], "annotation": [annotation], "path": ["a/b.jpg"]})
        (row,) = find_parquet(source).take(9)
        assert widths([row], "annotation") == [4] and widths([row]) == [9]
        assert (row["path"], row["name"]) == ("a/b.jpg", "a/b")


def test_files_of_one_folder_may_have_different_types(images):
    folder = images / "table"
    columns = (
        pa.array([png(2)], pa.large_binary()),
        pa.array(["photos/3.png", None], pa.string()),
        pa.array([{"bytes": png(9), "path": "nine.png"}, {"bytes": None, "path": "photos/4.png"}]),
        pa.array([png(7)], pa.binary()),
    )
    for number, column in enumerate(columns):
        pa.parquet.write_table(pa.table({"image": column}), folder / f"{number}.parquet")
    cells = [row["image"] for row in find_parquet(str(folder), annotation_column="image").take(9)]
    assert [None if cell is None else to_rgb(cell).shape[1] for cell in cells] == [2, 3, None, 9, 4, 7]
    assert all(cell is None or cell.keys() == {"bytes", "path"} for cell in cells)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())], ids=str)
def test_bytes_of_every_type(tmp_path, kind):
    source = write(tmp_path, {"image": pa.array([png(3), png(4)]).cast(kind)})
    assert widths(find_images(source).take(9)) == [3, 4]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2]),
        pa.array([[1, 2], [3]]),
        pa.array([{"bytes": "text", "path": "a.png"}]),
        pa.array([{"width": 3}]),
    ],
    ids=["int64", "list", "text", "struct"],
)
def test_columns_of_other_types_are_refused_before_a_row_is_read(tmp_path, column):
    source = write(tmp_path, {"image": column, "good": [png(3)] * len(column)})
    expected = f"in.parquet: the column 'image' is of the type {column.type}; expected encoded bytes, paths".replace(
        "<item:", "<element:"
    )
    with pytest.raises(InputError) as error:
        find_images(source)
    assert expected in str(error.value)
    with pytest.raises(InputError) as error:
        find_parquet(source, image_column="good", annotation_column="image")
    assert expected in str(error.value)


def test_every_file_of_a_folder_must_have_the_column(tmp_path):
    for name, column in (("a", pa.array([png(3)])), ("b", pa.array([3.5]))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, {"image": column})
    with pytest.raises(InputError, match=r"b/in.parquet: the column 'image' is of the type double"):
        find_images(str(tmp_path))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    write(tmp_path, {"image": [png(3)]})
    (tmp_path / "z.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"z.parquet: cannot be read as parquet: "):
        find_images(str(tmp_path))


@pytest.mark.parametrize("names", [("__key__", "cls", "jpg"), ("__key__", "mask", "img"), ("__key__", "Mask", "scan")])
def test_columns_that_are_called_like_images_come_first(tmp_path, names):
    key, other, image = names
    found = find_images(write(tmp_path, {key: ["a"], other: [b"1"], image: [png(6)]}))
    assert widths(found.take(1)) == [6]
    assert f"images are read from {image}, and not from {other}" in found.guesses[0].message


@pytest.mark.parametrize("name", ["geometry", "sha256", "MD5"])
def test_shapes_and_digests_are_no_images(images, name):
    """As in GeoParquet."""
    found = find_images(write(images / "table", {name: [b"\1\2"], "path": ["photos/3.png"]}))
    assert widths(found.take(9)) == [3] and found.guesses == []


def test_a_choice_between_columns_is_said(tmp_path):
    found = find_images(write(tmp_path, {"text": ["a"], "photo": [png(6)], "mask": [png(7)]}))
    assert widths(found.take(1)) == [6]
    assert [(guess.code, guess.rows) for guess in found.guesses] == [("image-column", None)]
    assert "images are read from photo, and not from mask" in found.guesses[0].message
    with pytest.raises(InputError, match=r"no image column; .*found text"):
        find_images(write(tmp_path, {"text": ["a"]}))


def test_many_rows_keep_their_order(images):
    texts = [f"photos/{3 + row % 2}.png" for row in range(200)]
    rows = find_images(write(images / "table", {"image": texts})).take(999)
    assert np.array_equal(widths(rows), [3 + row % 2 for row in range(200)])
    assert len({row["key"] for row in rows}) == 200


@pytest.mark.parametrize("other", ["_delta_log/00010.checkpoint.parquet", "_temporary/0/task_1/part-1.parquet"])
def test_logs_and_unfinished_files_of_spark_are_no_images(tmp_path, other):
    (tmp_path / other).parent.mkdir(parents=True)
    write(tmp_path, {"image": [png(3)]})
    pa.parquet.write_table(pa.table({"add": ["in.parquet"]}), tmp_path / other)
    found = find_images(str(tmp_path))
    assert found.rows == 1 and [guess.code for guess in found.guesses] == ["hidden-files"]
    assert find_parquet(str(tmp_path), "image", "image").rows == 1


def test_parquet_in_a_glob_or_a_list_is_refused(tmp_path):
    path = write(tmp_path, {"image": [png(3)]})
    (tmp_path / "list.txt").write_text(f"{path}\n")
    for source in (str(tmp_path / "*.parquet"), str(tmp_path / "list.txt"), [path]):
        with pytest.raises(InputError, match=r"names .*in\.parquet, and a glob or a list names images"):
            find_images(source)


def test_an_image_in_base64_is_no_path(tmp_path):
    text = base64.b64encode(bytes(9999)).decode()
    (row,) = find_images(write(tmp_path, {"image": [text]})).take(9)
    with pytest.raises(ImageError, match=r"this text of 13332 letters is no path; if it is base64") as error:
        to_rgb(row["image"])
    assert len(row["path"]) < 400 and len(str(error.value)) < 400 and cause_of(str(error.value)) == "cannot read"
