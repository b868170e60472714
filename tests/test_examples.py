"""The examples run as they are, in a process of their own, with no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import write_scenes

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_tested_here():
    tested = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested
        assert len(path.read_text().splitlines()) <= 60  # a page


def test_batch_predictor():
    printed = run("01_batch_predictor.py")
    lines = re.findall(r"^scene_\d{5}\.jpg: (\d+) x (\d+), (\w+) (\d+)%, ", printed, re.M)
    assert len(lines) == 12
    assert len({(width, height) for width, height, *_ in lines}) > 1


def test_batch_predictor_keeps_the_row_of_a_bad_photo(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    assert re.search(r"^broken\.jpg: .*broken\.jpg.*not an image", run("01_batch_predictor.py", tmp_path), re.M)


def test_map_batches_actor_pool():
    printed = run("02_map_batches_actor_pool.py")
    losses = re.findall(r"^scene_\d{5}\.jpg: loss (\d+\.\d+)$", printed, re.M)
    assert len(losses) == 12
    (mean_iou,) = re.findall(r"^mean IoU\s+(\d\.\d+)$", printed, re.M)
    assert float(mean_iou) == pytest.approx(0.9, abs=0.1)


def sizes_of(printed, pattern=""):
    """Width, height and number of classes by the scene's number."""
    found = re.findall(rf"^scene_(\d{{5}})\.jpg: {pattern}(\d+) x (\d+), (\d) classes$", printed, re.M)
    return {int(number): (int(width), int(height), int(classes)) for number, width, height, classes in found}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The same of the predictor's masks, by itself."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 24, vary_size=True)
    paths = sorted((folder / "images").iterdir())
    predictor = SegformerPredictor(SegformerCheckpoint.demo())
    masks = [predictor.predict({"image": np.array([str(path)], object)})["segmentation"][0] for path in paths]
    assert len({mask.shape for mask in masks}) > 3
    return {number: (*mask.shape[::-1], len(np.unique(mask))) for number, mask in enumerate(masks)}


def test_stateless_tasks(expected):
    printed = run("03_stateless_tasks.py")
    assert sizes_of(printed) == expected
    assert "6 tasks loaded the model 6 times" in printed


def test_actors(expected):
    printed = run("04_actors.py")
    assert sizes_of(printed, r"worker \d, ") == expected
    workers = re.findall(r"^scene_\d{5}\.jpg: worker (\d), ", printed, re.M)
    assert "".join(workers) == "000011110000111100001111"


def test_actor_pool(expected):
    printed = run("05_actor_pool.py")
    assert sizes_of(printed) == expected
    shares = re.findall(r"^worker \d predicted (\d) of 6 batches$", printed, re.M)
    assert sum(map(int, shares)) == 6 and 1 <= len(shares) <= 2


def test_finetune():
    printed = run("06_finetune.py")
    epochs = re.findall(r"^epoch (\d): loss ([\d.]+), mean IoU ([\d.]+)$", printed, re.M)
    assert [epoch for epoch, *_ in epochs] == ["1", "2", "3"]
    assert float(epochs[2][1]) < float(epochs[0][1])  # it learns
    assert float(epochs[2][2]) > 0.6
    assert re.search(r"^scene: 256 x 192", printed, re.M)
    (curves,) = re.findall(r"^curves: (.*)$", printed, re.M)
    assert Image.open(curves).width > 300


def test_tune_then_predict():
    printed = run("07_tune_then_predict.py")
    pattern = r"^learning rate ([\d.]+), batch size ([48]), decoder size (\d+): mean IoU ([\d.]+) after epoch (\d)$"
    trials = re.findall(pattern, printed, re.M)
    assert {(rate, decoder) for rate, _, decoder, *_ in trials} == {
        (rate, decoder) for rate in ("0.005", "0.0001") for decoder in ("32", "64")
    }
    epochs = [int(epoch) for *_, epoch in trials]
    assert max(epochs) == 6 and min(epochs) < 6  # ASHA stopped some
    rate, _, _, mean_iou, _ = max(trials, key=lambda trial: float(trial[3]))
    assert rate == "0.005" and float(mean_iou) > 0.2
    scenes = re.findall(r"^scene_\d{5}\.jpg: 128 x 96, (\d) classes$", printed, re.M)
    assert len(scenes) == 4 and all(int(classes) > 1 for classes in scenes)
