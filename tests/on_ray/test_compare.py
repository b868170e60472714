"""`ray-segformer compare`, on real runs: each a process of its own, and most of them a job of the session's Ray."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import ray
from PIL import Image
from reference import run_python, save_small, small_model

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.architectures import ARCHITECTURES, Timeline
from ray_segformer.cli import main
from ray_segformer.commands.compare import _ARCHITECTURES
from ray_segformer.comparison import uneven
from ray_segformer.demo import write_scenes
from ray_segformer.viz import class_palette


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Seven images of different sizes."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 7, height=120, width=160, vary_size=True)
    return root / "images"


def compare(*arguments, **environment):
    """The exit code of the command in a process of its own, what it printed, and what it complained of."""
    command = [sys.executable, "-m", "ray_segformer.cli", "compare", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1200)
    return done.returncode, done.stdout, done.stderr


def seconds_of(timeline, kind):
    return sum(event.seconds for event in timeline.events if event.kind == kind)


@pytest.fixture(scope="module")
def compared(scenes, ray_address, tmp_path_factory):
    """All six, on images of very different sizes, larger than the input may be, and with a slow worker."""
    output = tmp_path_factory.mktemp("compared") / "out"
    options = ("--batch-size", 1, "--uneven", "--max-pixels", 200_000)
    # Jobs of one Ray: to start one for each takes a minute.
    code, printed, error = compare(scenes, output, *options, RAY_ADDRESS=ray_address)
    assert code == 0, printed + error
    return printed, output, json.loads((output / "comparison.json").read_text())


def test_the_command_knows_all_architectures():
    assert list(_ARCHITECTURES) == list(ARCHITECTURES)


def test_all_six_make_the_same_masks_and_their_numbers_are_those_of_their_timelines(compared):
    _, _, comparison = compared
    assert comparison["masks_equal"] and comparison["finished"]
    assert list(comparison["architectures"]) == list(ARCHITECTURES)
    assert comparison["machine"]["nodes"] == 1 and comparison["machine"]["ray"] == ray.__version__
    for name, result in comparison["architectures"].items():
        timeline = Timeline.from_dict(result["timeline"])
        predicted = [image for event in timeline.events if event.kind == "predict" for image in event.images]
        assert sorted(predicted) == list(range(7)), name
        assert result["different_pixels"] == 0 < result["pixels"]
        assert result["images_per_second"] == pytest.approx(7 / (timeline.end - timeline.start))
        busy = seconds_of(timeline, "preprocess") + seconds_of(timeline, "predict")
        share = busy / (len({event.process for event in timeline.events}) * (timeline.end - timeline.start))
        assert result["busy_share"] == pytest.approx(share) and 0 < share < 1
        assert result["load_seconds"] == pytest.approx(seconds_of(timeline, "load"))
        assert 100 < result["peak_memory_mb"] < 20_000
    loads = {name: result["loads"] for name, result in comparison["architectures"].items()}
    assert (loads["sequential"], loads["tasks"], loads["actors"], loads["actor_pool"]) == (1, 7, 2, 2)
    memory = {name: result["peak_memory_mb"] for name, result in comparison["architectures"].items()}
    assert memory["sequential"] < min(memory[name] for name in ARCHITECTURES if name != "sequential")


def test_the_printed_table_is_that_of_the_file(compared):
    printed, output, comparison = compared
    lines = printed.splitlines()
    assert lines[0] == "7 of 7 images, 2 workers, batches of 1"
    assert lines[-1] == f"{output}/report.html"
    for name, result in comparison["architectures"].items():
        (line,) = [line for line in lines if re.match(rf"{name}\s", line)]
        cells = line.split()
        assert cells[1] == f"{result['images_per_second']:.2f}"
        assert cells[4] == str(result["loads"])
        assert cells[-3:] == [f"{result['peak_memory_mb']:.0f}", "MB", "equal"]


def test_the_report_and_the_picture_show_all_six(compared):
    _, output, comparison = compared
    report = (output / "report.html").read_text()
    assert all(f">{name}" in report for name in ARCHITECTURES)
    assert report.count('<input type="range"') == 7
    picture = Image.open(output / "timelines.png")
    lanes = sum(result["workers"] for result in comparison["architectures"].values())
    assert picture.height > 40 * lanes
    assert sorted(path.name for path in output.iterdir()) == [
        "classes.json",
        "comparison.json",
        "report.html",
        "timelines.png",
    ]


def test_batches_wait_behind_the_slow_worker_where_they_are_dealt_out(compared, scenes):
    _, _, comparison = compared
    assert comparison["uneven"]
    batches = {}
    for name in ("actors", "actor_pool"):
        timeline = Timeline.from_dict(comparison["architectures"][name]["timeline"])
        predictions = [event for event in timeline.events if event.kind == "predict"]
        batches[name] = sorted(sum(event.worker == worker for event in predictions) for worker in timeline.workers)
    assert batches["actors"] == [3, 4]
    assert sum(batches["actor_pool"]) == 7
    sizes = [Image.open(io.BytesIO(cell)).size for cell in uneven([str(path) for path in sorted(scenes.iterdir())])]
    assert comparison["architectures"]["actors"]["pixels"] == sum(width * height for width, height in sizes)


def test_as_they_are_the_images_keep_their_sizes_and_are_shown_as_is_asked_for(scenes, tmp_path):
    """And `tasks` starts a Ray on this machine, where no cluster is named."""
    options = ("--architectures", "sequential", "tasks", "--images", 3, "--window", 96, "--stride", 64)
    code, printed, error = compare(scenes, tmp_path / "out", *options)
    assert code == 0, printed + error
    assert printed.startswith("3 of 7 images, ")
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(comparison["architectures"]) == ["sequential", "tasks"] and not comparison["uneven"]
    sizes = [Image.open(path).size for path in sorted(scenes.iterdir())[:3]]
    for result in comparison["architectures"].values():
        assert result["pixels"] == sum(width * height for width, height in sizes) and result["different_pixels"] == 0
    assert comparison["protocol"] == "windows of 96 pixels every 64, at the image's own size"
    checkpoint = SegformerCheckpoint.demo()
    images = {"image": np.array([str(path) for path in sorted(scenes.iterdir())[:3]], object)}
    expected, plain = (
        SegformerPredictor(checkpoint, **protocol).predict(images)["segmentation"]
        for protocol in ({"window": 96, "stride": 64}, {})
    )
    shown = re.findall(
        r'class="overlay" src="data:image/png;base64,([^"]+)"', (tmp_path / "out/report.html").read_text()
    )
    palette = class_palette(checkpoint.id2label)
    for content, mask, other in zip(shown, expected, plain, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
        np.testing.assert_array_equal(picture, palette[mask])
        assert (mask != other).any()


def test_gpus_that_are_not_there_are_not_waited_for(scenes, tmp_path, ray_address):
    arguments = ("--architectures", "tasks", "--gpus-per-worker", 1, "--images", 2)
    code, printed, _ = compare(scenes, tmp_path / "out", *arguments, RAY_ADDRESS=ray_address)
    assert code == 1 and re.search(r"tasks +failed: --gpus-per-worker 1: the cluster has 0 GPU\(s\)", printed)


def test_what_cannot_be_compared_is_refused_in_one_line(scenes, tmp_path, capsys):
    one_class = save_small(tmp_path / "model", small_model(1))
    capsys.readouterr()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not an image")
    for arguments, message in [
        ((tmp_path / "nothing", tmp_path / "out"), "no such file or folder"),
        ((tmp_path / "photos", tmp_path / "out"), r"broken\.jpg: .*not an image"),
        ((scenes, tmp_path / "photos"), "exists"),
        ((scenes, tmp_path / "out", "--architectures", "threads"), "invalid choice: 'threads'"),
        ((scenes, tmp_path / "out", "--max-pixels", 9), r"scene_00000\.jpg: too large: .* above the limit of 9"),
        (
            (scenes, tmp_path / "out", "--window", 10),
            r"window \(--window\) is at least 29 pixels for this model, not 10",
        ),
        ((scenes, tmp_path / "out", "--scales", 0.05), r"scene_00000\.jpg: too small: .* at least 29 pixels"),
        ((scenes, tmp_path / "out", "--model", one_class), r"has one class: .* so there is no difference"),
    ]:
        try:
            code = main(["compare", *map(str, arguments)])
        except SystemExit as exit_of_argparse:
            code = exit_of_argparse.code
        assert code == 2
        error = capsys.readouterr().err
        warnings = error.count("ray-segformer: warning:")  # of the model of one class
        assert re.search(message, error) and len(error.splitlines()) == 1 + warnings
    assert not (tmp_path / "out").exists()


def test_uneven_images_are_the_same_pictures_at_very_different_sizes(scenes):
    cells = uneven([str(path) for path in sorted(scenes.iterdir())] * 4)
    images = [Image.open(io.BytesIO(cell)) for cell in cells]
    assert {max(image.size) for image in images} == {160, 800, 4000}
    for path, image in zip(sorted(scenes.iterdir()) * 4, images, strict=True):
        original = Image.open(path)
        assert image.width / image.height == pytest.approx(original.width / original.height, abs=0.02)
        one, other = (np.asarray(picture.convert("RGB").resize((16, 12)), float) for picture in (image, original))
        assert np.abs(one - other).mean() < 10


# Memory


def test_peak_memory_of_this_process():
    """In a process that starts no other: beside Ray, workers that come and go would count too."""
    before, during, held = json.loads(run_python(HOLD_MEMORY))
    assert during - before == pytest.approx(held, rel=0.15)


HOLD_MEMORY = """
import json, time
import numpy as np
from ray_segformer.comparison import PeakMemory

with PeakMemory() as before:
    pass
with PeakMemory() as memory:
    held = np.ones(300 * 2**20, np.uint8)
    until = time.monotonic() + 100  # it samples ten times a second: only one that never does waits so long
    while memory.peak < before.peak + 0.85 * held.nbytes and time.monotonic() < until:
        time.sleep(0.01)
print(json.dumps([before.peak, memory.peak, held.nbytes]))
"""
