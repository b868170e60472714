"""Videos through the command: masks of their frames, interrupted runs, checks, and videos of overlays."""

from __future__ import annotations

import json
import shutil

import av
import numpy as np
import pyarrow.parquet
import pytest
import ray
from PIL import Image
from reference import decode, objects
from videos import decoded, make, turned

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.datasets import read_images
from ray_segformer.viz import class_palette, overlay

pytestmark = pytest.mark.usefixtures("ray_session")

EVERY = 3
TIMES = [100 * number if number < 20 else 2000 + 250 * (number - 20) for number in range(40)]  # milliseconds
NAMES = ("a/uneven.webm", "cut.mkv", "phone.mp4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A video of an odd size whose rate changes, one that is cut off, and one on its side."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "a").mkdir()
    make(folder / NAMES[0], 40, (47, 65), codec="libvpx-vp9", times=TIMES)
    whole = make(folder / NAMES[1], 40).read_bytes()
    (folder / NAMES[1]).write_bytes(whole[: len(whole) // 2])
    turned(make(folder / NAMES[2], 14), folder / NAMES[2], (0, 1, -1, 0))
    return folder


@pytest.fixture(scope="module")
def frames(videos):
    """Every third frame, upright, with its time, by path and number."""
    shown = {}
    for name in NAMES:
        for number, (seconds, frame) in enumerate(decoded(videos / name).items()):
            upright = np.ascontiguousarray(np.rot90(frame, -1)) if name == "phone.mp4" else frame
            shown[str(videos / name), number] = seconds, upright
    return {place: frame for place, frame in shown.items() if place[1] % EVERY == 0}


@pytest.fixture(scope="module")
def options(videos, small_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    return [
        *("predict", videos, folder / "out", "--model", small_dir, "--every", EVERY, "--on-error", "keep"),
        *("--overlay", "--confidence", "--workers", 1, "--shard-rows", 4),
    ]


@pytest.fixture(scope="module")
def output(options):
    from ray_segformer.cli import main

    assert main([*map(str, options)]) == 1  # since one video is cut off
    return options[2]


def rows_of(output):
    return sorted(pyarrow.parquet.read_table(output / "masks").to_pylist(), key=lambda row: row["index"])


def name_of(row, videos):
    """The name of a frame in the tree of the input."""
    return f"{row['path'].removeprefix(f'{videos}/').rpartition('.')[0]}/{row['frame']:06d}"


def test_each_frame_has_its_mask(videos, output, frames, small_dir):
    *rows, last = [row for row in rows_of(output) if row["path"].endswith("cut.mkv")]
    assert "the file is cut off" in last["error"] and last["seconds"] is None and last["height"] is None
    assert last["frame"] == len(decoded(videos / "cut.mkv")) and last["frame"] > rows[-1]["frame"]
    rows = [row for row in rows_of(output) if row["error"] is None]
    assert [(row["path"], row["frame"]) for row in rows] == [*frames]
    assert [row["seconds"] for row in rows] == [seconds for seconds, _ in frames.values()]
    predictor = SegformerPredictor(SegformerCheckpoint.from_pretrained(small_dir))
    expected = predictor.predict({"image": objects(*(frame for _, frame in frames.values()))})["segmentation"]
    for row, mask, (_, frame) in zip(rows, expected, frames.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(decode(row["segmentation"])), mask)
        assert decode(row["confidence"]).size == mask.shape[::-1]
        with Image.open(output / "overlays" / f"{name_of(row, videos)}.jpg") as drawn:
            assert drawn.size == frame.shape[1::-1]
    assert json.loads((output / "summary.json").read_text())["failures_by_cause"] == {"cannot decode": 1}


def interrupted(output, folder):
    """An output that lacks two files of rows, between which there are others."""
    shutil.copytree(output, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    (folder / "job.json").write_text(json.dumps(summary["options"]))
    for shard in sorted((folder / "masks").iterdir())[0:4:2]:
        shard.unlink()
    return folder


def test_an_interrupted_run_goes_on(options, output, tmp_path, run_command):
    folder = interrupted(output, tmp_path / "out")
    options = [folder if option == output else option for option in options]
    code, _, said = run_command(*[4 if option == EVERY else option for option in options], "--resume")
    assert code == 2 and "every was 3, now 4" in said
    code, printed, _ = run_command(*[99 if option == 4 else option for option in options], "--resume")
    assert code == 1 and f"done before: {len(rows_of(output)) - 8} images" in printed
    assert rows_of(folder) == rows_of(output)
    # The new file of rows has frames before and after those of others.
    assert run_command("export", folder, tmp_path / "exported", "--format", "video")[0] == 0
    assert run_command("export", output, tmp_path / "whole", "--format", "video")[0] == 0
    for name in ("a/uneven.mp4", "cut.mp4", "phone.mp4"):
        assert (tmp_path / "exported" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_video_shows_the_overlays_when_the_source_shows_the_frames(videos, output, frames, tmp_path, run_command):
    code, printed, said = run_command("export", output, tmp_path / "out", "--format", "video")
    assert code == 0 and "1 image has no mask, and is left out" in printed and f"{len(frames)} images: " in printed, (
        said
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("a", "classes.json", "cut.mp4", "export.json", "phone.mp4")
    ]
    palette = class_palette({int(key): name for key, name in json.loads((output / "classes.json").read_text()).items()})
    masks = {
        (row["path"], row["frame"]): np.asarray(decode(row["segmentation"]))
        for row in rows_of(output)
        if row["error"] is None
    }
    for name, path in {"a/uneven.mp4": NAMES[0], "cut.mp4": NAMES[1], "phone.mp4": NAMES[2]}.items():
        own = {place: frame for place, frame in frames.items() if place[0] == str(videos / path)}
        times = [seconds for seconds, _ in own.values()]
        with av.open(str(tmp_path / "out" / name)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
            lasts = float(stream.duration * stream.time_base)
        shown = decoded(tmp_path / "out" / name)
        np.testing.assert_allclose([*shown], times, atol=1e-4)
        assert lasts == pytest.approx(2 * times[-1] - times[-2], abs=1e-3)  # the last frame as long as the one before
        for (place, (_, frame)), picture in zip(own.items(), shown.values(), strict=True):
            expected = overlay(frame, masks[place], palette)
            height, width, _ = expected.shape
            assert picture.shape == (height + height % 2, width + width % 2, 3)
            differences = np.abs(picture[:height, :width].astype(int) - expected)
            assert np.median(differences) <= 6 and differences.mean() < 12, (name, place)


def test_other_exports_of_frames(videos, output, tmp_path, run_command):
    rows = [row for row in rows_of(output) if row["error"] is None]
    assert run_command("export", output, tmp_path / "png", "--format", "png")[0] == 0
    for row in rows:
        with Image.open(tmp_path / "png/masks" / f"{name_of(row, videos)}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), np.asarray(decode(row["segmentation"])))
    assert run_command("export", output, tmp_path / "coco", "--format", "coco")[0] == 0
    images = json.loads((tmp_path / "coco/annotations.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [
        f"{row['path'].removeprefix(f'{videos}/')}#frame={row['frame']}" for row in rows
    ]
    code, _, said = run_command("export", output, tmp_path / "studio", "--format", "label-studio")
    assert code == 2 and "these are parts of files, told by frame and seconds" in said


def test_a_video_export_goes_on_and_needs_the_video(videos, output, tmp_path, run_command):
    arguments = ["export", output, tmp_path / "out", "--format", "video", "--resume"]
    phone, aside = videos / "phone.mp4", tmp_path / "phone.mp4"
    phone.rename(aside)
    try:
        code, _, said = run_command(*arguments)
        assert code == 1 and f"{phone}: cannot read the file" in said and "is it the video that was segmented?" in said
        assert "All others are exported, but the export is not finished; put the missing files back" in said
        others = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp4")}
        assert others == {"a/uneven.mp4", "cut.mp4"}
        assert run_command("report", output, "--to", tmp_path / "page.html")[0] == 0
        page = (tmp_path / "page.html").read_text()
        assert (
            f"cannot read the file: [Errno 2] No such file or directory: &#x27;{phone}&#x27;" in page
            and "no frame at" not in page
        )
        make(phone, 14, (64, 80))
        code, _, said = run_command(*arguments)
        assert code == 1 and "the image is (64, 80) but its segmentation is (64, 48)" in said
    finally:
        aside.rename(phone)
    assert not (tmp_path / "out/phone.mp4").exists() and not (tmp_path / "out/export.json").exists()
    assert run_command(*arguments)[0] == 0 and (tmp_path / "out/phone.mp4").exists()


def test_check_looks_at_frames(videos, tmp_path, run_command):
    code, printed, _ = run_command("check", videos, "--json")
    report = json.loads(printed)
    frames = 40 + 14 + len(decoded(videos / "cut.mkv"))
    assert code == 1 and report["rows"] == report["looked_at"] == frames + 1
    assert report["images"]["kinds"] == {"VP9 yuv420p": 40, "H264 yuv420p": frames - 40}
    assert report["images"]["traits"]["exif_rotated"]["rows"] == 14
    assert "the file is cut off" in report["images"]["unreadable"]["cannot decode"]["message"]


def test_what_takes_no_videos(videos, output, tmp_path, small_dir, run_command):
    code, _, said = run_command("evaluate", videos / "phone.mp4", "--output", tmp_path / "scores")
    assert code == 2 and "phone.mp4: videos have no annotations" in said
    Image.new("RGB", (8, 6)).save(tmp_path / "image.png")
    for source in (tmp_path / "image.png", tmp_path):
        code, _, said = run_command("predict", source, tmp_path / "out", "--every", 2)
        assert code == 2 and "every (--every) is for videos" in said and not (tmp_path / "out").exists()
    assert run_command("predict", tmp_path / "image.png", tmp_path / "out", "--model", small_dir)[0] == 0
    code, _, said = run_command("export", tmp_path / "out", tmp_path / "video", "--format", "video")
    assert code == 2 and "--format video is for masks of videos, whose rows have frame and seconds" in said


def test_frames_in_map_batches(videos, small_dir):
    dataset = read_images(str(videos / "phone.mp4"))
    masks = dataset.map_batches(
        SegformerPredictor,
        fn_constructor_args=(str(small_dir),),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=5,
    )
    rows = sorted(masks.take_all(), key=lambda row: row["frame"])
    assert [row["frame"] for row in rows] == list(range(14))
    predictor = SegformerPredictor(str(small_dir))
    upright = [np.ascontiguousarray(np.rot90(frame, -1)) for frame in decoded(videos / "phone.mp4").values()]
    expected = predictor.predict({"image": objects(*upright)})["segmentation"]
    np.testing.assert_array_equal([row["segmentation"] for row in rows], expected)


def test_a_video_in_a_store_of_objects(videos, object_store, small_dir, tmp_path, run_command):
    """The export finds it with the options of the output's URI, which the rows do not have."""
    store, options = object_store
    store.create_dir("clips")
    with store.open_output_stream("clips/a b.mp4") as file:
        file.write((videos / "phone.mp4").read_bytes())
    place = f"s3://nobody:top%2Fsecret@clips/{{}}{options}"
    said = [
        run_command("predict", place.format("a b.mp4"), place.format("out"), "--model", small_dir, "--workers", 1),
        run_command("export", place.format("out"), tmp_path / "out", "--format", "video"),
    ]
    assert [code for code, _, _ in said] == [0, 0] and "secret" not in str(said)
    assert len(decoded(tmp_path / "out" / "a%20b.mp4")) == 14
