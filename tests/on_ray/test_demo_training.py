"""Training the packaged checkpoint anew, by its command, which starts a Ray of its own."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image
from reference import run_python
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer.demo import CLASSES, make_scene, train

# The command with two runs of small inputs for the recipe's three.
SMALL_RECIPE = """
from ray_segformer.demo import train

train.RUNS = ({"size": 32, "learning_rate": 2e-3}, {"size": 64, "learning_rate": 4e-4, "augment": False})
train.main()
"""


def test_the_recipe():
    assert [run["size"] for run in train.RUNS] == [128, 256, 320]
    assert [run.get("augment", True) for run in train.RUNS] == [True, True, False]
    assert len(train.EPOCHS) == len(train.RUNS)


def test_training_from_the_command_line(tmp_path):
    output = tmp_path / "checkpoint"
    arguments = ("--output", output, "--scenes", 4, "--epochs", 1, 1, "--batch-size", 2, "--evaluate", 2)
    assert "mIoU" in run_python(SMALL_RECIPE, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training.json",
    }
    metrics = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert (metrics["scenes"], metrics["held_out_seeds"]) == (4, [0, 1])
    assert [run["settings"]["size"] for run in metrics["runs"]] == [[32, 32], [64, 64]]
    assert all(len(run["history"]) == 1 and run["history"][0]["loss"] > 0 for run in metrics["runs"])
    assert set(metrics["iou"]) == set(CLASSES)
    model = SegformerForSemanticSegmentation.from_pretrained(output).eval()
    processor = SegformerImageProcessorPil.from_pretrained(output)
    inputs = processor(Image.fromarray(make_scene(3, 64, 96)[0]), return_tensors="pt")
    with torch.inference_mode():
        assert tuple(model(**inputs).logits.shape) == (1, 8, 80, 80)


@pytest.fixture
def refused(monkeypatch, capsys):
    """What the command says to arguments that it refuses, before it starts Ray."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            train.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_training_refuses_a_full_directory_before_it_starts(refused, tmp_path):
    (tmp_path / "stale.txt").write_text("from an earlier run")
    for taken in (tmp_path, tmp_path / "stale.txt"):
        assert f"{taken} exists and is not an empty directory" in refused("--output", taken)
    assert [path.name for path in tmp_path.iterdir()] == ["stale.txt"]


def test_training_refuses_no_scenes(refused, tmp_path):
    assert "--scenes" in refused("--output", tmp_path / "x", "--scenes", 0)
    assert list(tmp_path.iterdir()) == []
