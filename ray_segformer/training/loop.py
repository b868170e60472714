"""Fine-tuning SegFormer on Ray Train and Ray Tune: a training loop for `TorchTrainer`, and for the trials of a `Tuner`.

    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"model": "nvidia/segformer-b0-finetuned-ade-512-512", "epochs": 20, "batch_size": 4},
        scaling_config=ScalingConfig(num_workers=4),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
        datasets={"train": read_ade20k(root, "training"), "validation": read_ade20k(root, "validation")},
        dataset_config=EveryRowOfValidation(),
    )
    SegformerPredictor.from_checkpoint(trainer.fit().checkpoint)

    trial = tune.with_resources(tune.with_parameters(train_in_trial, datasets=datasets), {"GPU": 1})
    results = tune.Tuner(trial, param_space={"model": ..., "learning_rate": tune.loguniform(1e-5, 1e-3)}).fit()
    SegformerPredictor.from_checkpoint(results.get_best_result(metric="mean_iou", mode="max").checkpoint)

Model and loss are transformers'. Encoded images stream from Ray Data into each worker, which decodes and augments them
in the background. It is tested on CPUs; on a GPU none of it has been run.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed

from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.network import upsampled_argmax
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.training.augmentation import IGNORED, EveryRowOfValidation, TrainingRows, mixed
from ray_segformer.training.run import new_run, resumed_run, save_run
from ray_segformer.training.settings import Settings
from ray_segformer.training.workers import TrainWorker, TuneTrial, sum_over_workers

__all__ = ["EveryRowOfValidation", "Settings", "train_in_trial", "train_loop_per_worker"]
_SECONDS_BETWEEN_LINES = 30
_MOST_WARM_UP_STEPS = 1500  # the paper's


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """Train, and after each epoch score, save and report; for `ray.train.torch.TorchTrainer`.

    Needs the datasets "train" and "validation" with images and annotations, such as those of `ray_segformer.datasets`.
    Reports `epoch` (from 1), `loss` (of training, the mean over its steps), `learning_rate` (of the last step),
    and of all validation images together, at their own sizes, `mean_iou`, `mean_accuracy` and `overall_accuracy`
    (see `SegmentationMetrics`), `val_loss` (transformers' of each image at the network's size, the mean) and
    `validation_images`.

    Each checkpoint is a `SegformerCheckpoint`'s directory: with its size, `training.json` (settings, versions and the
    history of all epochs), `curves.png` (the same as a picture, `draw_curves`), and `optimizer.safetensors` and
    `training_state.json`, from which a run that was interrupted goes on. Nothing is pickled. Each epoch has random
    numbers of its own, so that a resumed one repeats what would have been, as far as Ray Data keeps the order
    (`preserve_order`). How far it is, the first worker prints every half minute and after each epoch.

    Args:
        config: `Settings`, as a dict.

    Raises:
        ValueError: a setting is unknown or wrong, or an annotation has ids outside the classes; the message names it.
        ImageError: an image cannot be read; the message names it.
        CheckpointError: `model`, or the checkpoint to resume from, holds no SegFormer.
    """
    _train(Settings.of(config), TrainWorker())


def train_in_trial(config: dict[str, Any], datasets: Mapping[str, Any]) -> None:
    """The same as a trial of Ray Tune, for `Tuner(tune.with_parameters(train_in_trial, datasets=...))`.

    The trial's own process trains, on its GPU if it has one, and reports to Tune: each epoch is a `training_iteration`
    with a checkpoint, also where a scheduler stops the trial before its last. There is one process, hence one GPU, a
    trial. Ray Data reads with the CPUs that trials leave: `tune.with_resources` and `max_concurrent_trials` are to
    leave at least one, or trials wait for ever.

    Args:
        config: `Settings`, as a dict; a sample of the `Tuner`'s `param_space`.
        datasets: "train" and "validation", Ray datasets as for `train_loop_per_worker`.

    Raises:
        ValueError, ImageError, CheckpointError: as for `train_loop_per_worker`.
        RuntimeError: it is called elsewhere than in a trial.
    """
    _train(Settings.of(config), TuneTrial(datasets))


def _train(settings: Settings, worker: TrainWorker | TuneTrial) -> None:
    """What `train_loop_per_worker` describes."""
    device, shards = worker.device, worker.shards
    run = resumed_run(worker.checkpoint) or new_run(settings)
    if run.images is None:
        run.images = settings.training_images or _count_rows(shards["train"], device)
    steps_an_epoch = max(1, math.ceil(run.images // worker.workers / settings.batch_size))
    half = settings.mixed_precision == "bfloat16" or (settings.mixed_precision == "auto" and device.type == "cuda")
    model = worker.prepare(run.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if run.optimizer is not None:
        optimizer.load_state_dict(run.optimizer)

    for epoch in range(len(run.history), settings.epochs):
        rows = TrainingRows(
            run.preprocessor,
            run.model.config.num_labels,
            augmented=settings.augment,
            seed=settings.seed,
            epoch=epoch,
            image_column=settings.image_column,
            annotation_column=settings.annotation_column,
        )
        torch.manual_seed(mixed(settings.seed, epoch, worker.rank))
        losses, rate = [], math.nan
        progress = _Progress(f"epoch {epoch + 1} of {settings.epochs}", steps_an_epoch)
        for batch in rows.training_batches(shards["train"], settings.batch_size):
            rate = settings.learning_rate * schedule(run.step, settings.epochs * steps_an_epoch)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            losses.append(train_step(model, optimizer, run.preprocessor, batch, rate, half))
            run.step += 1
            if worker.rank == 0:
                progress.say(losses)
        counted = [loss for loss in losses if loss is not None]
        total, steps = sum_over_workers(np.array([sum(counted), len(counted)]), device)
        metrics = {"epoch": epoch + 1, "loss": float(total / steps) if steps else math.nan, "learning_rate": rate}
        if torch.distributed.is_initialized():
            for buffer in run.model.buffers():  # batch norm's statistics are those of the worker that saves
                torch.distributed.broadcast(buffer, 0)
        batches = rows.validation_batches(shards["validation"], settings.batch_size)
        scores = evaluate(run.model, run.preprocessor, batches, device)
        run.history.append({**metrics, **scores})
        metrics |= {name: score for name, score in scores.items() if name != "per_category_iou"}
        if worker.rank == 0:
            print(f"{progress.epoch}: loss {metrics['loss']:.4f}, mean IoU {metrics['mean_iou']:.4f}", flush=True)
            with tempfile.TemporaryDirectory(prefix="segformer_") as folder:
                directory = os.path.join(folder, "checkpoint")
                save_run(directory, run, settings, optimizer, worker.workers)
                worker.report(metrics, directory)
        else:
            worker.report(metrics, None)


class _Progress:
    """Says now and then, in the worker's output, which Ray shows on the driver, how far an epoch is."""

    def __init__(self, epoch: str, steps: int):
        self.epoch, self._steps = epoch, steps
        self._started = self._said = time.monotonic()

    def say(self, losses: list[float | None]) -> None:
        """Say it, given the losses of the epoch's steps so far, if it is time."""
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            left = (self._steps - len(losses)) * (now - self._started) / len(losses)
            loss = "none" if losses[-1] is None else f"{losses[-1]:.4f}"
            print(f"{self.epoch}: step {len(losses)} of {self._steps}, loss {loss}, {left:.0f} s left", flush=True)


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor in a step: a linear warm-up, times a linear decay, as the SegFormer paper has it."""
    warm_up = max(1, min(_MOST_WARM_UP_STEPS, steps // 10))
    return min(1.0, (step + 1) / warm_up) * max(0.0, 1 - step / steps)


def train_step(
    model: Any, optimizer: Any, preprocessor: SegformerPreprocessor, batch: dict[str, Any], rate: float, half: bool
) -> float | None:
    """One step of the optimizer; the loss before it, transformers' own, None where all pixels are ignored.

    Args:
        batch: `pixel_values`, uint8 `(N, 3, height, width)`, and `labels`, int64 `(N, height, width)`, on the device.
        rate: the learning rate.
        half: whether the forward pass is autocast to bfloat16.
    """
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=half):
        output = model(pixel_values=preprocessor.normalize(batch["pixel_values"]), labels=batch["labels"])
    counted = bool((batch["labels"] != IGNORED).any())
    loss = output.loss if counted else output.logits.sum() * 0  # all workers step, also one with nothing to learn
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item() if counted else None


def evaluate(model: Any, preprocessor: SegformerPreprocessor, batches: Any, device: torch.device) -> dict[str, Any]:
    """The scores of all workers' validation images, with the model in eval mode; see `train_loop_per_worker`."""
    model.eval()
    metrics = SegmentationMetrics(model.config.num_labels)
    loss, counted, images = 0.0, 0, 0
    for batch, own_size_annotations in batches:
        with torch.inference_mode():
            pixel_values = preprocessor.normalize(batch["pixel_values"].to(device))
            labels = batch["labels"].to(device)
            logits = model(pixel_values=pixel_values).logits.float()
            resized = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
            losses = torch.nn.functional.cross_entropy(resized, labels, ignore_index=IGNORED, reduction="none")
            pixels = (labels != IGNORED).sum((1, 2))
            loss += (losses.sum((1, 2)) / pixels)[pixels > 0].sum().item()
            counted += int((pixels > 0).sum())
        for image_logits, annotation in zip(logits, own_size_annotations, strict=True):
            metrics.update(upsampled_argmax(image_logits.permute(1, 2, 0), annotation.shape), annotation)
            images += 1
    loss, counted, images = sum_over_workers(np.array([loss, counted, images]), device)
    metrics.confusion = sum_over_workers(metrics.confusion, device)
    scores = metrics.compute()
    del scores["per_category_accuracy"]
    return {"val_loss": float(loss / counted) if counted else math.nan, "validation_images": int(images), **scores}


def _count_rows(shard: Any, device: torch.device) -> int:
    """The rows of all workers' shards."""
    own = sum(table.num_rows for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"))
    total = int(sum_over_workers(np.array([own]), device)[0])
    if not own:
        raise ValueError(f"the dataset 'train' has no rows for every worker: {total} in all")
    return total
