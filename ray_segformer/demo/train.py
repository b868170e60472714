"""Train the demonstration checkpoint: a small SegFormer that has seen nothing but generated scenes.

    python -m ray_segformer.demo.train --output DIR

It is what `ray_segformer.train` makes of a dataset of scenes, in three runs: much of the learning on small inputs, at a
quarter of the cost, then on larger ones, and at last on scenes as they are seen when predicting. The directory then
holds config.json, model.safetensors and preprocessor_config.json, as any SegFormer from the Hugging Face Hub does, and
training.json with the settings and the history of all runs, and the scores on scenes that training never saw
("held_out_seeds" names the first and the last).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from transformers import SegformerConfig

from ray_segformer import SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.demo.scenes import CLASSES, make_scene
from ray_segformer.images import encode
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.training import EveryRowOfValidation, train_loop_per_worker

INFERENCE_SIZE = 320  # small things gain more by being seen larger than large ones lose

# Held-out scenes are numbered from 0, those that each epoch is scored on, and those to learn from, from here on.
FIRST_VALIDATION_SEED = 900_000
FIRST_TRAINING_SEED = 1_000_000

RUNS: tuple[dict[str, Any], ...] = (
    {"size": 128, "learning_rate": 2e-3},
    {"size": 256, "learning_rate": 1e-3},
    {"size": INFERENCE_SIZE, "learning_rate": 4e-4, "augment": False},  # scenes as they will be seen
)
EPOCHS = (6, 4, 2)


def config() -> dict[str, Any]:
    """A SegFormer for `CLASSES` with about 0.9 million float32 parameters."""
    return SegformerConfig(
        hidden_sizes=[16, 32, 80, 128],
        depths=[2, 2, 2, 2],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    ).to_dict()


def scenes(first_seed: int, count: int) -> ray.data.Dataset:
    """`count` scenes, each of a size and shape of its own, drawn once, by all processors.

    Returns:
        A dataset of `path`, `image` (a JPEG's bytes) and `annotation` (a PNG's, class ids), as
        `ray_segformer.datasets` reads them.
    """

    def draw(row: dict[str, Any]) -> dict[str, Any]:
        """The scene of a number."""
        seed = first_seed + int(row["id"])
        rng = np.random.default_rng([seed, 2])
        height = int(rng.integers(224, 481))
        picture, mask = make_scene(seed, height, int(height * rng.uniform(0.9, 1.6)))
        return {
            "path": f"scene {seed}",
            "image": encode(picture, "JPEG", quality=92),
            "annotation": encode(mask, "PNG"),
        }

    return ray.data.range(count).map(draw).materialize()


def train(
    count: int, epochs: Sequence[int], batch_size: int, seed: int, storage: str
) -> tuple[SegformerCheckpoint, list[dict[str, Any]]]:
    """The checkpoint of the last of `RUNS`, and what each says of its settings and epochs.

    Args:
        count: scenes to learn from; an eighth as many, at most 100, are drawn to score each epoch.
        epochs: of each run.
        batch_size: scenes a step.
        seed: of weights, order and augmentation.
        storage: a folder for what Ray Train keeps.
    """
    datasets: dict[str, Any] = {
        "train": scenes(FIRST_TRAINING_SEED, count),
        "validation": scenes(FIRST_VALIDATION_SEED, min(100, max(1, count // 8))),
    }
    start: dict[str, Any] = {"config": config()}
    runs = []
    for settings, passes in zip(RUNS, epochs, strict=True):
        trainer = TorchTrainer(
            train_loop_per_worker,
            train_loop_config={
                **start,
                **settings,
                "epochs": passes,
                "batch_size": batch_size,
                "seed": seed,
                "training_images": count,
                "mixed_precision": "bfloat16",
            },
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": os.cpu_count() or 1}),
            run_config=RunConfig(storage_path=storage),
            datasets=datasets,
            dataset_config=EveryRowOfValidation(),
        )
        checkpoint = SegformerCheckpoint.from_checkpoint(trainer.fit().checkpoint)
        runs.append({name: checkpoint.content.training[name] for name in ("settings", "history", "versions")})
        start = {"model": checkpoint}
    return checkpoint, runs


def evaluate(checkpoint: SegformerCheckpoint, count: int) -> dict[str, Any]:
    """Scores on the held-out scenes 0 to `count` - 1 at 480x640, all pixels together."""
    predictor = SegformerPredictor(checkpoint)
    metrics = SegmentationMetrics(len(CLASSES))
    for seed in range(count):
        picture, mask = make_scene(seed)
        (predicted,) = predictor.predict({"image": picture[None]})["segmentation"]
        metrics.update(predicted, mask)
    scores = metrics.compute()
    iou = zip(CLASSES, scores["per_category_iou"], strict=True)
    return {
        "miou": round(float(scores["mean_iou"]), 4),
        "iou": {name: None if np.isnan(value) else round(float(value), 4) for name, value in iou},
        "accuracy": round(float(scores["overall_accuracy"]), 4),
        "held_out_seeds": [0, count - 1],
    }


def main() -> None:
    """Train, evaluate and save: the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_segformer.demo.train",
        description="Train a small SegFormer on generated scenes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the checkpoint; a new one")
    parser.add_argument("--scenes", type=_positive, default=4000, metavar="N", help="scenes to learn from")
    parser.add_argument("--epochs", type=_positive, nargs=len(RUNS), default=EPOCHS, metavar="N", help="of the runs")
    parser.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="scenes a step")
    parser.add_argument("--seed", type=_seed, default=0, help="of weights, order and augmentation")
    parser.add_argument("--evaluate", type=_positive, default=200, metavar="N", help="held-out scenes")
    arguments = parser.parse_args()
    if arguments.output.is_dir() and any(arguments.output.iterdir()):
        parser.error(f"{arguments.output} exists and is not empty; name a new directory")
    started = time.perf_counter()
    # The worker has all processors; one more is for what reads beside it.
    ray.init("local", num_cpus=(os.cpu_count() or 1) + 1, include_dashboard=False)
    with tempfile.TemporaryDirectory(prefix="demo_train_") as storage:
        checkpoint, runs = train(arguments.scenes, arguments.epochs, arguments.batch_size, arguments.seed, storage)
    ray.shutdown()
    seconds = time.perf_counter() - started
    model, preprocessor = checkpoint.get_model(), SegformerPreprocessor(INFERENCE_SIZE)
    metrics = evaluate(SegformerCheckpoint.from_model(model, preprocessor), arguments.evaluate)
    training = {**metrics, "scenes": arguments.scenes, "seconds": round(seconds, 1), "runs": runs}
    SegformerCheckpoint.from_model(model, preprocessor, arguments.output, training=training)
    for name, value in metrics["iou"].items():
        print(f"{name:<10}" + ("   none" if value is None else f"{value:7.4f}"))
    print(f"{'mIoU':<10}{metrics['miou']:7.4f}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


if __name__ == "__main__":
    main()
