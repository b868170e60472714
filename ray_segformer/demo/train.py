"""Train the packaged checkpoint: a small SegFormer, trained on generated scenes only.

    python -m ray_segformer.demo.train --output DIR

It is trained by `ray_segformer.train`, in three runs. The first run does most of the learning, on small inputs, at a
quarter of the cost. The second uses larger inputs. The last one uses scenes without augmentation, as they are when
predicting. DIR then contains config.json, model.safetensors and preprocessor_config.json, as any SegFormer from the
Hugging Face Hub does. It also contains training.json, with the settings and the history of all runs, and with the
scores on scenes that were not used in training ("held_out_seeds" are the first and the last of them).
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
from ray_segformer.demo._classes import CLASSES
from ray_segformer.demo._scenes import make_scene
from ray_segformer.images import encode
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.training import EveryRowOfValidation, train_loop_per_worker

INFERENCE_SIZE = 320  # at larger inputs small things gain more than large ones lose

# The held-out scenes have the seeds from 0 on. Validation and training scenes start here, so that none overlap.
FIRST_VALIDATION_SEED = 900_000
FIRST_TRAINING_SEED = 1_000_000

RUNS: tuple[dict[str, Any], ...] = (
    {"size": 128, "learning_rate": 2e-3},
    {"size": 256, "learning_rate": 1e-3},
    {"size": INFERENCE_SIZE, "learning_rate": 4e-4, "augment": False},  # scenes as they are when predicting
)
EPOCHS = (6, 4, 2)


def config() -> dict[str, Any]:
    """Return the configuration of a SegFormer for `CLASSES` with about 0.9 million float32 parameters."""
    settings: dict[str, Any] = SegformerConfig(
        hidden_sizes=[16, 32, 80, 128],
        depths=[2, 2, 2, 2],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    ).to_dict()
    return settings


def scenes(first_seed: int, count: int) -> ray.data.Dataset:
    """Draw `count` scenes with random sizes, on all processors, and keep them in the object store.

    Returns:
        A dataset with the columns `path`, `image` (the bytes of a JPEG) and `annotation` (the bytes of a PNG of class
        ids), the same columns as `ray_segformer.datasets` reads.
    """

    def draw(row: dict[str, Any]) -> dict[str, Any]:
        seed = first_seed + int(row["id"])
        rng = np.random.default_rng([seed, 2])
        height = int(rng.integers(224, 481))
        picture, mask = make_scene(seed, height, int(height * rng.uniform(0.9, 1.6)))
        return {
            "path": f"scene {seed}",
            "image": encode(picture, "JPEG", quality=92),
            "annotation": encode(mask, "PNG"),
        }

    dataset: ray.data.Dataset = ray.data.range(count).map(draw).materialize()
    return dataset


def train(
    count: int, epochs: Sequence[int], batch_size: int, seed: int, storage: str
) -> tuple[SegformerCheckpoint, list[dict[str, Any]]]:
    """Train a model in the three `RUNS`.

    Args:
        count: the number of training scenes. An eighth as many, at most 100, are drawn for validation.
        epochs: the number of epochs of each run.
        batch_size: scenes per step.
        seed: for the initial weights, the order of scenes, and augmentation.
        storage: a folder for Ray Train's files.

    Returns:
        The checkpoint of the last run, and for each run its `settings`, `history` and `versions`.
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
    """Score a checkpoint on the held-out scenes 0 to `count` - 1 at 480x640, over the pixels of all scenes together."""
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
    """Train, evaluate and save a model, with the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_segformer.demo.train",
        description="Train a small SegFormer on generated scenes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="new directory for the checkpoint")
    parser.add_argument("--scenes", type=_positive, default=4000, metavar="N", help="training scenes")
    parser.add_argument(
        "--epochs", type=_positive, nargs=len(RUNS), default=EPOCHS, metavar="N", help="epochs of the runs"
    )
    parser.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="scenes per step")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of weights, order and augmentation")
    parser.add_argument("--evaluate", type=_positive, default=200, metavar="N", help="held-out scenes")
    arguments = parser.parse_args()
    if arguments.output.is_file() or (arguments.output.is_dir() and any(arguments.output.iterdir())):
        parser.error(f"{arguments.output} exists and is not an empty directory; name a new one")
    started = time.perf_counter()
    # The training worker takes all processors. Ray Data needs one more to read at the same time.
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
