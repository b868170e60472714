"""The command, on real files, by its entry point; and once in a process of its own, as a user runs it."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.cli import main
from ray_segformer.demo import CLASSES, PALETTE, write_scenes
from ray_segformer.viz import overlay


@dataclass
class Done:
    """A command that ended: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(ray_session, capsys):
    """Runs `ray-segformer` with the session's Ray, as its entry point does."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_of_argparse:
            code = exit_of_argparse.code
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A tree of images: three scenes at its root, two in a folder below, and a file that is no image."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root / "made", 5, height=96, width=128, vary_size=True)
    photos = root / "photos"
    (photos / "more").mkdir(parents=True)
    for number, path in enumerate(sorted((root / "made" / "images").iterdir())):
        path.rename(photos / ("more" if number > 2 else ".") / path.name)
    (photos / "notes.md").write_text("not an image")
    return photos


@pytest.fixture(scope="module")
def masks(scenes):
    """What the predictor makes of the scenes in this process, by path."""
    paths = sorted(map(str, scenes.rglob("*.jpg")))
    predictor = SegformerPredictor(SegformerCheckpoint.demo())
    return dict(zip(paths, predictor.predict({"image": np.array(paths, object)})["segmentation"], strict=True))


def png(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def table(output):
    return pa.parquet.read_table(output / "masks").to_pylist()


def files_of(folder):
    """The files below a folder, by their relative paths."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def assert_png_masks(output, masks, names):
    """The PNG files of an output are these: names with the paths of their images."""
    found = files_of(output / "masks")
    assert set(found) == set(names)
    for name, path in names.items():
        mask = Image.open(found[name])
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), masks[path])


@pytest.fixture(scope="module")
def made(scenes, ray_session):
    """A folder to parquet with overlays, all paths relative: what was printed, and the output."""
    shutil.copytree(Path(__file__).parents[2] / "ray_segformer" / "demo" / "checkpoint", scenes.parent / "model")
    (scenes.parent / "work").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        patch.chdir(scenes.parent / "work")
        options = ["--model", "../model", "--overlay", "--batch-size", "2", "--workers", "2"]
        code = main(["predict", "../photos", "out", *options])
    return Done(code, output.getvalue(), error.getvalue()), scenes.parent / "work" / "out"


def test_folder_to_parquet_with_overlays(made, scenes, masks):
    done, output = made
    assert done.returncode == 0, done.stderr
    rows = table(output)
    assert [row["path"] for row in rows] == list(masks)  # in the order of the input, and absolute
    for row in rows:
        expected = masks[row["path"]]
        assert (row["height"], row["width"]) == expected.shape
        assert row["error"] is None
        np.testing.assert_array_equal(png(row["segmentation"]), expected)
        overlay = output / "overlays" / Path(row["path"]).relative_to(scenes)
        assert Image.open(overlay).size == expected.shape[::-1]
    assert json.loads((output / "classes.json").read_text()) == {str(i): name for i, name in enumerate(CLASSES)}
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["images"], summary["failures"], summary["finished"]) == (5, 0, True)
    assert summary["model"] == str(scenes.parent / "model")
    assert done.stdout.splitlines()[-1].startswith("5 images, 0 failed, ")
    assert done.stdout.splitlines()[-1].endswith(" images/s: out")
    assert "5 of 5 images\n" in done.stderr  # in place of a progress bar, since this is no terminal


def test_datasets_opens_the_parquet(made, masks, tmp_path):
    files = [str(path) for path in (made[1] / "masks").iterdir()]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 5
    for row in loaded.cast_column("segmentation", datasets.Image()):
        np.testing.assert_array_equal(np.asarray(row["segmentation"]), masks[row["path"]])


def test_png_mirrors_a_tree_given_by_its_uri(command, scenes, masks, tmp_path):
    """Folders stay, also those with folders alone in them, and so do names that differ in their suffix alone."""
    tree = tmp_path / "in"
    shutil.copytree(scenes, tree / "year" / "day")
    first, second = list(masks)[:2]
    Image.open(first).save(tree / "a.png")
    (tree / "a.jpg").write_bytes(Path(second).read_bytes())
    done = command("predict", tree.as_uri(), tmp_path / "out", "--format", "png")
    assert done.returncode == 0, done.stderr
    names = {str("year/day" / Path(path).relative_to(scenes).with_suffix(".png")): path for path in masks}
    assert_png_masks(tmp_path / "out", masks, {**names, "a.png.png": first, "a.jpg.png": second})


def test_a_list_a_glob_and_an_image_each_overwrite_the_output_of_the_one_before(command, scenes, masks, tmp_path):
    output, paths = tmp_path / "out", list(masks)
    listed = tmp_path / "images.txt"
    listed.write_text("# some\n" + "\n".join([os.path.relpath(path, tmp_path) for path in paths]) + "\n\n")
    done = command("predict", listed, output, "--format", "png")
    assert done.returncode == 0, done.stderr
    assert_png_masks(output, masks, {str(Path(path).relative_to(scenes).with_suffix(".png")): path for path in paths})

    assert "--overwrite" in wrong(command, "predict", scenes, output)

    done = command("predict", f"{scenes}/**/*[024].jpg", output, "--format", "png", "--overwrite")
    assert done.returncode == 0, done.stderr
    names = {str(Path(path).relative_to(scenes).with_suffix(".png")): path for path in paths if path[-5] in "024"}
    assert len(names) == 3 and any("/" in name for name in names)
    assert_png_masks(output, masks, names)

    done = command("predict", paths[0], output, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ray-segformer: warning: the packaged model") == done.stderr.count("[packaged-model]") == 1
    (row,) = table(output)
    assert row["path"] == paths[0]
    np.testing.assert_array_equal(png(row["segmentation"]), masks[paths[0]])
    assert not list(output.rglob("*.png"))
    assert sorted(os.listdir(tmp_path)) == ["images.txt", "out"]


def test_parquet_of_bytes(command, masks, tmp_path):
    contents = [Path(path).read_bytes() for path in masks]
    names = [f"{number}/../../../photo" for number in range(len(contents))]
    source = pa.table({"id": range(len(contents)), "jpeg": pa.array(contents, pa.binary()), "path": names})
    pa.parquet.write_table(source, tmp_path / "in.parquet", row_group_size=2)
    output = tmp_path / "out"
    done = command("predict", tmp_path / "in.parquet", output, "--overlay", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    rows = table(output)
    assert [row["path"] for row in rows] == names
    for row, expected in zip(rows, masks.values(), strict=True):
        np.testing.assert_array_equal(png(row["segmentation"]), expected)
    assert len(list((output / "overlays").rglob("*.jpg"))) == 5  # and none of them outside


def test_parquet_of_structs_in_bfloat16(command, masks, tmp_path):
    source = pa.table({"image": [{"bytes": Path(path).read_bytes(), "path": None} for path in masks]})
    pa.parquet.write_table(source, tmp_path / "in.parquet", row_group_size=2)
    done = command("predict", tmp_path / "in.parquet", tmp_path / "out", "--dtype", "bfloat16", "--runtime", "eager")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "out")
    assert len({row["path"] for row in rows}) == 5
    found = [png(row["segmentation"]) for row in rows]
    pixels = sum(mask.size for mask in found)
    equal = sum((mask == other).sum() for mask, other in zip(found, masks.values(), strict=True))
    assert 0.97 * pixels < equal < pixels  # it is another arithmetic, and close


def test_a_run_that_ends_early_says_that_there_is_something_to_resume(command, masks, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(next(iter(masks)), folder / "good.jpg")
    assert command("predict", folder, output).returncode == 0
    (output / "job.json").write_text(json.dumps(json.loads((output / "summary.json").read_text())["options"]))
    (output / "summary.json").unlink()  # as an interrupted run leaves it
    (folder / "text.jpg").write_bytes(b"no image")
    stopped = command("predict", folder, output, "--resume")
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].endswith("; --resume continues after the images that are done")
    kept = command("predict", folder, output, "--resume", "--on-error", "keep")
    assert f"1 failed: 1 not an image. Path and error of each: {output}/masks" in kept.stdout
    rows = pa.parquet.read_table(output / "masks").sort_by("index").to_pylist()
    assert [(Path(row["path"]).name, row["error"] is None) for row in rows] == [("good.jpg", True), ("text.jpg", False)]


def test_unreadable_images(command, scenes, masks, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    good, truncated = list(masks)[:2]
    (folder / "good.jpg").write_bytes(Path(good).read_bytes())
    (folder / "truncated.jpg").write_bytes(Path(truncated).read_bytes()[:500])
    (folder / "empty.png").write_bytes(b"")

    stopped = command("predict", folder, tmp_path / "raised")
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].startswith("ray-segformer: error: row ")
    assert str(folder) in stopped.stderr.splitlines()[-1]
    said = " (--on-error keep continues without it); no image is saved: results are written for each 1024 images"
    assert stopped.stderr.splitlines()[-1].endswith(f"{said} (--shard-rows)")
    assert "on_error" not in stopped.stderr.splitlines()[-1]
    assert not (tmp_path / "raised").exists()

    options = ("--format", "png", "--confidence", "--overlay")
    kept = command("predict", folder, tmp_path / "kept", "--on-error", "keep", *options)
    assert kept.returncode == 1, kept.stderr
    assert kept.stdout.splitlines()[-1].startswith("3 images, 2 failed, ")
    table = pa.parquet.read_table(tmp_path / "kept" / "rows")
    rows = {Path(row["path"]).name: row for row in table.to_pylist()}
    of_good = rows["good.jpg"]
    assert (of_good["mask"], of_good["confidence"]) == ("masks/good.png", "confidence/good.png")
    assert (of_good["height"], of_good["width"]) == masks[good].shape and of_good["error"] is None
    assert sum(of_good["class_pixels"]) == masks[good].size
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "kept" / of_good["mask"])), masks[good])
    predictor = SegformerPredictor(SegformerCheckpoint.demo(), confidence=True)
    (expected,) = predictor.predict({"image": np.array([good], object)})["confidence"]
    confidence = np.asarray(Image.open(tmp_path / "kept" / of_good["confidence"]))
    np.testing.assert_array_equal(confidence, np.rint(expected * 255))
    for name, cause in (("truncated.jpg", "truncated"), ("empty.png", "0 bytes")):
        nothing = ("mask", "confidence", "height", "width", "class_ids", "class_pixels")
        assert [rows[name][column] for column in nothing] == [None] * len(nothing)
        assert name in rows[name]["error"] and cause in rows[name]["error"]
    for made, names in (("overlays", ["good.jpg"]), ("masks", ["good.png"]), ("confidence", ["good.png"])):
        assert [path.name for path in (tmp_path / "kept" / made).iterdir()] == names


def wrong(command, *arguments):
    """The one line with which a command refuses."""
    done = command(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nowhere", "out"], "nowhere: no such file or folder"),
        (["predict", "", "out"], "the path of the input is empty"),
        (["predict", "one.png", ""], "the path of the output is empty"),
        (["predict", "one.png", "out", "--model", ""], "the name of the model is empty"),
        (["predict", "*.jpg", "out"], "*.jpg: no images there"),
        (["predict", "empty", "out"], "empty: neither images nor parquet there"),
        (["predict", "notes.md", "out"], "the suffix '.md' is none of them"),
        (["predict", "nosuch://bucket/photos", "out"], "nosuch://bucket/photos: not a URI"),
        (["predict", "columns.parquet", "out"], "columns.parquet: no image column"),
        (["predict", "twice.parquet", "out"], "twice.parquet: 2 columns are called 'image'; rename all but one"),
        (["predict", "one.png", "taken"], "taken exists, and is no output of an earlier run; name a new folder"),
        (["predict", "one.png", "taken", "--overwrite"], "taken is no earlier output"),
        (
            ["predict", "one.png", "s3:/user:key@bucket/out"],
            "the path begins with s3:/, but a URI begins with s3://; write that",
        ),
        (["predict", "gs:/bucket/in", "out"], "the path begins with gs:/, but a URI begins with gs://; write that"),
        (
            ["predict", ".", "out", "--exclude", "*.p*"],
            "neither images nor parquet there; exclude (--exclude) leaves out 3",
        ),
        (
            ["predict", "one.png", "out", "--model", "s3://key:secret@bucket/b0?a=b"],
            "error: s3://bucket/b0: a model is a ",
        ),
        (["predict", "one.png", "notes.md"], "notes.md is a file, or in one; name a folder"),
        (
            ["predict", "one.png", "runtime_resources/working_dir_files/_ray_pkg_12/out"],
            "_12/out), which Ray deletes after it; name an absolute path, or a store",
        ),
        (["predict", "one.png", "nosuch://bucket/out"], "nosuch://bucket/out: not a URI that pyarrow's file systems"),
        (["predict", "one.png", "out", "--model", "empty"], "no config.json there"),
        (
            ["predict", "one.png", "out", "--batch-size", "0"],
            "--batch-size: expected a whole number of at least 1, got 0",
        ),
        (
            ["predict", "one.png", "out", "--workers", "two"],
            "--workers: expected a whole number of at least 1, got two",
        ),
        (["predict", "one.png", "out", "--gpus-per-worker", "99"], "--gpus-per-worker 99: the cluster has"),
        (["predict", "one.png", "out", "--runtime", "onnx"], "argument --runtime: invalid choice: 'onnx'"),
        (["predict", "one.png", "out", "--dtype", "float16"], 'dtype="float16" is for CUDA'),
        (["predict", "one.png"], "the following arguments are required: OUTPUT"),
        (["segment"], "invalid choice: 'segment'"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(command, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.doc").write_text("dear")
    (tmp_path / "notes.md").write_text("")
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    pa.parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "columns.parquet")
    twice = pa.Table.from_arrays([pa.array([b"a"])] * 2, names=["image"] * 2)
    pa.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert said in wrong(command, *arguments)
    assert not (tmp_path / "out").exists() and not (tmp_path / "runtime_resources").exists()
    assert (tmp_path / "taken" / "thesis.doc").read_text() == "dear"


def test_demo_in_a_process_of_its_own(ray_address, tmp_path):
    arguments = [sys.executable, "-m", "ray_segformer", "demo", "made", "--scenes", "3"]  # without water
    environment = {**os.environ, "RAY_ADDRESS": ray_address}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made"
    sheet = Image.open(made / "contact_sheet.png")
    assert sheet.width > 1000 and len(sheet.getcolors(1 << 24)) > 10_000
    printed = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    # The mean IoU, once more: from the files, by another formula.
    scores = []
    pairs = [
        (np.asarray(Image.open(made / "scenes/annotations" / path.name)), np.asarray(Image.open(path)))
        for path in sorted((made / "masks").iterdir())
    ]
    assert len(pairs) == 3
    ious = json.loads((made / "summary.json").read_text(), parse_constant=pytest.fail)["iou"]  # no NaN
    for class_id, name in enumerate(CLASSES):
        both = sum(((a == class_id) & (p == class_id)).sum() for a, p in pairs)
        either = sum(((a == class_id) | (p == class_id)).sum() for a, p in pairs)
        if either:
            scores.append(both / either)
            assert float(printed[name]) == pytest.approx(both / either, abs=5e-5)
            assert ious[name] == pytest.approx(both / either)
        else:
            assert printed[name] == "absent" and ious[name] is None
    assert None in ious.values()
    assert float(printed["mean"]) == pytest.approx(np.mean(scores), abs=5e-5)
    assert np.mean([(a == p).mean() for a, p in pairs]) > 0.9
    assert len(list((made / "overlays").iterdir())) == 3
    # Side by side: a scene, the truth over it, and SegFormer's mask over it. The first is the one that came first.
    shown, first = np.asarray(sheet)[78:, 24:], []
    for path, (truth, mask) in zip(sorted((made / "scenes/images").iterdir()), pairs, strict=True):
        scene = np.asarray(Image.open(path))
        pictures = (scene, overlay(scene, truth, PALETTE), overlay(scene, mask, PALETTE))
        size = 240, round(240 * scene.shape[0] / scene.shape[1])
        tiles = [np.asarray(Image.fromarray(picture).resize(size)) for picture in pictures]
        places = [shown[: size[1], left : left + 240] for left in (0, 252, 504)]
        first.append(all(map(np.array_equal, tiles, places)))
    assert any(first)
