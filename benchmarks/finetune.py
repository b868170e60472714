"""Fine-tune on CamVid, from trained and from random weights, and score the model after each epoch."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.measure import Table
from benchmarks.settings import Settings
from ray_segformer import SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.train import EveryRowOfValidation, train_loop_per_worker

_SIZE = 256
_COMMON = {"size": _SIZE, "batch_size": 4, "reduce_labels": True}
_FROM_WEIGHTS = {"epochs": 3, "learning_rate": 6e-5, "augment": False}
_FROM_NOTHING = {"epochs": 3, "learning_rate": 1e-3, "augment": True}
_COLUMNS = {
    "name": "after epoch",
    "loss": "loss",
    "val_loss": "loss of validation",
    "mean_iou": "mIoU",
    "overall_accuracy": "overall accuracy",
}


def run(settings: Settings) -> list[Table]:
    """Return a table of epochs for each start: 367 images to train on, 233 of other videos to score."""
    ray.init("local", num_cpus=settings.threads + 1, include_dashboard=False, log_to_driver=False)
    try:
        checkpoint = SegformerCheckpoint.from_pretrained(settings.model)
        config = json.loads((Path(settings.model) / "config.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory(prefix="finetune_") as folder:
            camvid = settings.shared / "data" / "camvid"
            pairs = {
                "train": _some(camvid / "train", 24 if settings.quick else None),
                "validation": _some(camvid / "test", 12 if settings.quick else None),
            }
            before = {"name": "none", "loss": None, "val_loss": None, **_scores(checkpoint, pairs["validation"])}
            trained = [before, *_train({"model": checkpoint, **_FROM_WEIGHTS}, pairs, settings, folder)]
            scratch = _train({"config": config, **_FROM_NOTHING}, pairs, settings, folder)
    finally:
        ray.shutdown()
    counts = {split: len(images) for split, images in pairs.items()}
    note = f"Trained on {counts['train']} images, scored on {counts['validation']} of other videos, at {_SIZE}x{_SIZE}."
    return [
        Table("From segformer-b0-camvid, without augmentation", _COLUMNS, trained, [note]),
        Table("From random weights, with augmentation", _COLUMNS, scratch, [note]),
    ]


def _some(split: Path, count: int | None) -> list[tuple[Path, Path]]:
    """Return images of a split with their annotations: `count` of them, evenly spread, or all."""
    images = sorted((split / "images").glob("*.jpg"))
    step = 1 if count is None else len(images) // count
    return [(image, split / "annotations" / f"{image.stem}.png") for image in images[::step][:count]]


def _dataset(pairs: list[tuple[Path, Path]]) -> Any:
    rows = [
        {"path": str(image), "image": image.read_bytes(), "annotation": annotation.read_bytes()}
        for image, annotation in pairs
    ]
    return ray.data.from_items(rows).materialize()


def _train(start: dict[str, Any], pairs: dict[str, Any], settings: Settings, folder: str) -> list[dict[str, Any]]:
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={**start, **_COMMON},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": settings.threads}),
        run_config=RunConfig(storage_path=folder),
        datasets={split: _dataset(some) for split, some in pairs.items()},
        dataset_config=EveryRowOfValidation(),
    )
    checkpoint = SegformerCheckpoint.from_checkpoint(trainer.fit().checkpoint)
    history = checkpoint.content.training["history"]
    return [{"name": str(epoch["epoch"]), **{key: epoch[key] for key in list(_COLUMNS)[1:]}} for epoch in history]


def _scores(checkpoint: SegformerCheckpoint, pairs: list[tuple[Path, Path]]) -> dict[str, float]:
    """Score a checkpoint without training, at the size of the training."""
    config = checkpoint.get_preprocessor().to_config()
    preprocessor = SegformerPreprocessor.from_config({**config, "size": {"height": _SIZE, "width": _SIZE}})
    predictor = SegformerPredictor({"model": checkpoint.get_model(), "preprocessor": preprocessor})
    metrics = SegmentationMetrics(checkpoint.content.num_labels, reduce_labels=True)
    for image, annotation in pairs:
        (mask,) = predictor.predict({"image": np.array([str(image)], object)})["segmentation"]
        metrics.update(mask, np.asarray(Image.open(annotation)))
    scores = metrics.compute()
    return {name: float(scores[name]) for name in ("mean_iou", "overall_accuracy")}
