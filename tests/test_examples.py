"""The examples run as they are, in a process of their own, with no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_ADDRESS": "local"}
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
