"""`ray-segformer info`, against what transformers and torch count."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import ray_segformer
from ray_segformer import CheckpointError, SegformerCheckpoint, SegformerPreprocessor
from ray_segformer.cli import main
from ray_segformer.network._cost import gmac

DEMO = Path(ray_segformer.__file__).parent / "demo" / "checkpoint"


def info(capsys, *arguments):
    code = main(["info", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_info_of_the_packaged_model(capsys):
    code, printed, _ = info(capsys, "demo")
    lines = {}
    for line in printed.splitlines():
        if len(line.split(None, 1)) == 2:
            lines.setdefault(*line.split(None, 1))
    assert code == 0
    parameters = SegformerCheckpoint.demo().get_model().num_parameters()
    assert lines["parameters"] == f"{parameters:,}"
    assert lines["classes"] == "8: sky, ground, road, building, tree, car, person, water"
    assert lines["size"] == "height 320, width 320"
    training = json.loads((DEMO / "training.json").read_text())
    assert float(lines["miou"]) == training["miou"] and float(lines["person"]) == training["iou"]["person"]
    epochs = [line for line in printed.splitlines() if line.strip().startswith("history")]
    assert len(epochs) == sum(len(run["history"]) for run in training["runs"])
    last = training["runs"][-1]["history"][-1]
    assert f"mean_iou {last['mean_iou']:.6g}" in epochs[-1] and "per_category_iou" not in printed


def test_info_as_json(capsys, shared):
    directory = shared / "models/segformer-b0-camvid"
    code, printed, _ = info(capsys, directory, "--json")
    facts = json.loads(printed)
    assert code == 0 and Path(facts["origin"]).samefile(directory)
    assert facts["parameters"] == 3_752_694
    assert len(facts["classes"]) == 150 and facts["classes"]["0"] == "wall"
    assert facts["preprocessing"]["do_reduce_labels"] is True
    assert facts["gmac"]["published"] == pytest.approx(8.4, abs=0.05)  # table 3 of the paper
    assert facts["training"] == {}


@pytest.mark.parametrize("size", [(512, 512), (256, 320)])
def test_gmac_is_what_torch_counts(shared, size):
    config = SegformerConfig.from_pretrained(shared / "models/segformer-b0-ade-config")
    with torch.device("meta"):
        model = SegformerForSemanticSegmentation(config).eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(pixel_values=torch.empty(1, 3, *size))
    counted = counter.get_total_flops() / 2e9
    assert gmac(config.to_dict(), *size, folded=False) == pytest.approx(counted, rel=0.002)
    assert gmac(config.to_dict(), *size) < 0.6 * counted
    assert gmac({"id2label": config.id2label}, *size, folded=False) == gmac(config.to_dict(), *size, folded=False)


def test_without_settings_they_are_those_of_transformers():
    config = SegformerConfig()
    assert gmac({}, 512, 512) == gmac(config.to_dict(), 512, 512) == gmac({"num_labels": 2}, 512, 512)


def test_names_of_classes_are_text_alone(capsys, tmp_path):
    shutil.copytree(DEMO, tmp_path / "model")
    config = json.loads((DEMO / "config.json").read_text())
    config["id2label"]["0"] = "a\x1b[31mred"
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    code, printed, _ = info(capsys, tmp_path / "model")
    assert code == 0 and "\x1b" not in printed and "a\\x1b[31mred" in printed


def test_what_a_model_was_trained_with_travels(capsys, small, tmp_path):
    training = {"epochs": 2, "metrics": {"mean_iou": 0.25, "loss": None}, "data": ["a", "b"]}
    SegformerCheckpoint.from_model(small.model, SegformerPreprocessor(64), tmp_path / "one", training=training)
    again = SegformerCheckpoint.from_pretrained(tmp_path / "one").to_directory(str(tmp_path / "two"))
    assert json.loads((tmp_path / "two" / "training.json").read_text()) == training
    _, printed, _ = info(capsys, again)
    assert "metrics\n  loss                None\n  mean_iou            0.25\n" in printed
    assert "data                  a, b" in printed
    with pytest.raises(ValueError, match="JSON"):
        SegformerCheckpoint.from_model(small.model, path=tmp_path / "three", training={"loss": float("nan")})
    assert not (tmp_path / "three").exists()


def test_a_model_that_keeps_the_aspect_ratio(capsys, small, tmp_path):
    own = SegformerPreprocessor({"shortest_edge": 64, "longest_edge": 96})
    SegformerCheckpoint.from_model(small.model, own, tmp_path)
    code, printed, error = info(capsys, tmp_path)
    assert code == 0, error
    assert "size                  longest_edge 96, shortest_edge 64\n" in printed and "an image of 64 x 64" in printed
    assert (
        "protocol              aspect ratio kept, short side 64, long side at most 96 (the checkpoint's own" in printed
    )


def test_what_is_no_checkpoint(capsys, tmp_path):
    code, _, error = info(capsys, tmp_path)
    assert code == 2 and "no config.json" in error
    SegformerCheckpoint.demo().to_directory(str(tmp_path))
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"training\.json: expected a JSON object"):
        SegformerCheckpoint.from_pretrained(tmp_path)
