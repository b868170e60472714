"""What is said about the files of an input, and inputs in a store of objects, as jobs and datasets have them."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer._guesses import SegformerWarning
from ray_segformer.cli import main
from ray_segformer.datasets import read_ade20k, read_images
from ray_segformer.inputs import find_rounds

pytestmark = pytest.mark.usefixtures("ray_session")


def png(width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_predict_says_what_it_leaves_out_and_what_looks_like_masks(small_dir, tmp_path, capsys):
    (tmp_path / "in" / ".cache").mkdir(parents=True)
    for name in ("dog.png", "dog_mask.png", ".cache/dog.png", "._dog.png"):
        (tmp_path / "in" / name).write_bytes(png(9))
    for number in range(3):
        (tmp_path / "in" / f"{number}.psd").write_bytes(b"")
    arguments = ["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(small_dir), "--workers", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().err
    assert "warning: " in printed and "3 files of other kinds were not looked at (.psd 3)" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {entry["code"]: entry["rows"] for entry in summary["warnings"]} == {
        "hidden-files": 2,
        "other-files": 3,
        "looks-like-masks": 1,
    }
    assert all(entry["message"] in printed for entry in summary["warnings"])
    assert summary["images"] == 2 and summary["options"]["exclude"] == []
    assert main([*arguments, "--resume", "--exclude", "*_mask.png"]) == 2
    assert "exclude was not given, now *_mask.png" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--exclude", "*_mask.png"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == 1 and [entry["code"] for entry in summary["warnings"]] == [
        "hidden-files",
        "other-files",
    ]
    assert summary["options"]["exclude"] == ["*_mask.png"]


def test_an_output_in_its_input_is_no_input(small_dir, tmp_path, run_command):
    for width in (8, 9):
        (tmp_path / f"{width}.png").write_bytes(png(width))
    arguments = ["predict", tmp_path, tmp_path / "out", "--model", small_dir, "--workers", "1", "--format", "png"]
    for more in ((), ("--overwrite",), ("--resume",)):
        code, printed, _ = run_command(*arguments, *more)
        assert code == 0 and "2 images, 0 failed" in printed
        assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["8.png", "9.png"]


def test_parquet_files_of_one_folder_may_have_different_types(small_dir, tmp_path, run_command):
    (tmp_path / "in").mkdir()
    (tmp_path / "9.png").write_bytes(png(9))
    for name, cell in (("0", png(8)), ("1", "../9.png"), ("2", {"bytes": png(10), "path": "10.png"})):
        pa.parquet.write_table(pa.table({"image": [cell]}), tmp_path / f"in/{name}.parquet")
    code, printed, _ = run_command("predict", tmp_path / "in", tmp_path / "out", "--model", small_dir, "--workers", "1")
    assert code == 0 and "3 images, 0 failed" in printed
    rows = pa.parquet.read_table(tmp_path / "out/masks").sort_by("index").to_pylist()
    assert [row["width"] for row in rows] == [8, 9, 10]


def test_read_images_warns(tmp_path):
    (tmp_path / "dog.png").write_bytes(png(9))
    (tmp_path / "dog.psd").write_bytes(b"")
    with pytest.warns(SegformerWarning, match=r"1 file of another kind was not looked at \(.psd 1\)") as said:
        rows = read_images(str(tmp_path)).take_all()
    assert [row["image"] for row in rows] == [png(9)]
    assert [each.message.code for each in said if each.category is SegformerWarning] == ["other-files"]


def test_images_and_annotations_of_a_store_of_objects(object_store, tmp_path):
    file_system, options = object_store
    for number, kind in enumerate(("images", "annotations"), 10):
        file_system.create_dir(f"annotated/{kind}/validation", recursive=True)
        for name in ("a b", "c"):
            with file_system.open_output_stream(f"annotated/{kind}/validation/{name}.png") as file:
                file.write(png(number))
    root = f"s3://someone:secret@annotated{options}"  # workers have no password of their own
    rows = sorted(read_ade20k(root).take_all(), key=lambda row: row["path"])
    assert [row["path"] for row in rows] == [f"s3://annotated/images/validation/{name}.png" for name in ("a%20b", "c")]
    assert [(row["image"], row["annotation"]) for row in rows] == [(png(10), png(11))] * 2


def test_the_output_of_a_store_of_objects_tells_no_secret(object_store, small_dir, tmp_path, capsys):
    file_system, options = object_store
    file_system.create_dir("photos")
    table = pa.table({"image": ["dog.png", "gone.png"]})
    pa.parquet.write_table(table, "photos/in.parquet", filesystem=file_system)
    with file_system.open_output_stream("photos/dog.png") as file:
        file.write(png(9))
    source = f"s3://someone:secret@photos/in.parquet{options}"
    arguments = ["predict", source, str(tmp_path / "out"), "--model", str(small_dir), "--workers", "1"]
    assert main([*arguments, "--on-error", "keep"]) == 1  # an image is missing
    rows = pa.parquet.read_table(tmp_path / "out" / "masks").to_pylist()
    assert [(row["path"], row["width"]) for row in rows] == [("s3://photos/dog.png", 9), ("s3://photos/gone.png", None)]
    assert "gone.png" in rows[1]["error"]
    printed = capsys.readouterr()
    written = (tmp_path / "out" / "summary.json").read_text()
    assert json.loads(written)["options"]["input"] == "s3://photos/in.parquet"
    for text in (str(rows), written, printed.out, printed.err):
        assert "secret" not in text and "endpoint" not in text


@pytest.fixture
def rounds_of_four(monkeypatch):
    """Jobs find four images in the first round, and five in each later one."""
    monkeypatch.setitem(find_rounds.__kwdefaults__, "first", 4)
    monkeypatch.setattr("ray_segformer.inputs._rounds.LATER_ROUNDS", 5)
    monkeypatch.setattr("ray_segformer.inputs._rounds.PART", 5)


def rows_of(output, folder="masks"):
    return pa.parquet.read_table(output / folder).sort_by("index").to_pylist()


def test_a_job_in_rounds_does_what_it_does_in_one(small_dir, tmp_path, run_command, monkeypatch, rounds_of_four):
    """An image of the third round is broken: the job ends there, and goes on there when it is mended."""
    (tmp_path / "in").mkdir()
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        (tmp_path / "in" / f"{name}.png").write_bytes(png(9 + int(name)))
    (tmp_path / "in" / "10.png").write_bytes(b"broken")
    (tmp_path / "in" / "11.txt").write_bytes(b"")
    arguments = ["predict", tmp_path / "in", tmp_path / "out", "--model", small_dir, "--workers", "1", "--resume"]
    code, _, said = run_command(*arguments)
    assert code == 1 and "10.png" in said and not (tmp_path / "out" / "summary.json").exists()
    before = rows_of(tmp_path / "out")
    assert [row["index"] for row in before] == [*range(9)]
    (tmp_path / "in" / "10.png").write_bytes(png(19))
    code, _, said = run_command(*arguments)
    assert code == 0 and said.count("1 file of another kind was not looked at") == 1
    assert "12 of 12 images\n" in said  # their number is known when all is listed
    monkeypatch.undo()
    whole = [*arguments[:2], tmp_path / "whole", *arguments[3:]]
    assert run_command(*whole)[0] == 0
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("out", "whole")]
    for key in ("images", "failures", "classes", "warnings", "options"):
        assert summaries[0][key] == summaries[1][key]
    assert summaries[0]["images"] == 12 and summaries[0]["resumed"] == 9


def test_files_of_masks_have_names_of_their_own_in_all_rounds(small_dir, tmp_path, run_command, rounds_of_four):
    (tmp_path / "in").mkdir()
    for number in range(6):
        for suffix in (".png", ".webp"):
            Image.new("RGB", (9 + number, 8)).save(tmp_path / "in" / f"{number}{suffix}")
    arguments = ["predict", tmp_path / "in", tmp_path / "out", "--model", small_dir, "--workers", "1"]
    assert run_command(*arguments, "--format", "png")[0] == 0
    rows = rows_of(tmp_path / "out", "rows")
    files = {row["mask"] for row in rows}
    assert len(files) == 12 == len(list((tmp_path / "out" / "masks").iterdir()))
    for row in rows:
        with Image.open(tmp_path / "out" / row["mask"]) as mask:
            assert mask.size == (row["width"], row["height"]) == Image.open(row["path"]).size
