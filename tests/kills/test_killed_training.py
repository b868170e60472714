"""A worker that is killed while it trains is replaced, and goes on from the last checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import ray
from dying import counted, die_at, wait_until
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.numpy import load_file

from ray_segformer import SegformerCheckpoint
from ray_segformer.air import installed
from ray_segformer.datasets import read_images
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.train import train_loop_per_worker
from ray_segformer.training import EveryRowOfValidation

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="needs the API of newer Ray Train")

SETTINGS = {
    "config": {
        "hidden_sizes": [16, 32, 40, 64],
        "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 32,
        "id2label": dict(enumerate(CLASSES)),
        # Without dropout, so that a step can be repeated.
        "drop_path_rate": 0.0,
        "classifier_dropout_prob": 0.0,
    },
    "size": 64,
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
}
COMPARED = ("learning_rate", "loss", "val_loss")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Eight scenes to train on, and five to validate with."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "train", 8, height=72, width=96)
    write_scenes(folder / "validation", 5, seed=1000, height=72, width=96)
    return folder


def fit(scenes: Path, storage: Path, loop):
    """The result of a run on the scenes, read in order, of which one worker may die."""
    in_order = ray.data.ExecutionOptions(preserve_order=True)
    return TorchTrainer(
        loop,
        train_loop_config=SETTINGS,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=str(storage), failure_config=FailureConfig(max_failures=1)),
        datasets={
            split: read_images(str(scenes / split / "images"), annotations=str(scenes / split / "annotations"))
            for split in ("train", "validation")
        },
        dataset_config=EveryRowOfValidation(execution_options=in_order),
    ).fit()


def test_a_killed_worker_is_replaced_and_goes_on(ray_session, scenes, tmp_path):
    """It dies at the end of its third epoch, with the checkpoint of the first one reported.

    So epochs two and three are trained twice: by a worker that nothing disturbed yet, and by one that goes on.
    """
    folder, storage = tmp_path / "folder", tmp_path / "runs"
    folder.mkdir()

    def noted():
        snapshots = list(storage.glob("*/checkpoint_manager_snapshot.json"))
        return bool(snapshots) and "checkpoint_" in snapshots[0].read_text()

    def loop(config):
        with open(folder / "pids", "a") as file:
            file.write(f"{os.getpid()}\n")
        report = ray.train.report

        def report_or_die(metrics, checkpoint=None):
            number = counted(folder, "reports")
            if number in (1, 2):
                with open(folder / "undisturbed", "a") as file:
                    file.write(json.dumps({name: metrics[name] for name in ("epoch", *COMPARED)}) + "\n")
            if number == 2:
                wait_until(noted)
            die_at(folder, "reports", [3])
            if number not in (1, 2):
                report(metrics, checkpoint=checkpoint)

        ray.train.report = report_or_die
        train_loop_per_worker(config)

    result = fit(scenes, storage, loop)
    assert len(set((folder / "pids").read_text().split())) == 2
    assert counted(folder, "reports") == 3 + 2
    history = SegformerCheckpoint.from_checkpoint(result.checkpoint).content.training["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    undisturbed = [json.loads(line) for line in (folder / "undisturbed").read_text().splitlines()]
    for epoch, expected in zip(history[1:], undisturbed, strict=True):
        assert epoch["epoch"] == expected["epoch"]
        assert [epoch[name] for name in COMPARED] == pytest.approx([expected[name] for name in COMPARED], rel=1e-3)
    directory = Path(result.checkpoint.path)
    assert json.loads((directory / "training_state.json").read_text())["step"] == 6
    steps = {
        float(value) for name, value in load_file(directory / "optimizer.safetensors").items() if name.endswith(".step")
    }
    assert steps == {6.0}
