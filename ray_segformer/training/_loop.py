"""The training loop, for `TorchTrainer` of Ray Train and for the trials of Ray Tune's `Tuner`.

The model and the loss are transformers'. Encoded images stream from Ray Data into each worker, which decodes and
augments them in background threads. The loop is tested on CPUs. It has not been run on a GPU yet.
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

from ray_segformer._guesses import say
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.protocol import protocol_in
from ray_segformer.training._augmentation import IGNORED
from ray_segformer.training._rows import TrainingRows, combined_seed
from ray_segformer.training._run import TrainingRun, guesses_of, new_run, resumed_run, save_run
from ray_segformer.training._settings import Settings
from ray_segformer.training._validation import evaluate
from ray_segformer.training._workers import TrainWorker, TuneTrial, sum_over_workers

_SECONDS_BETWEEN_LINES = 30
_MAX_WARM_UP_STEPS = 1500  # as in the SegFormer paper


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """Train a SegFormer; for `ray.train.torch.TorchTrainer`. After each epoch, score it, save it and report.

    The trainer needs the datasets "train" and "validation" with images and annotations, such as those of
    `ray_segformer.datasets`. Each epoch reports these metrics:

    * `epoch`: from 1.
    * `loss`: the training loss, averaged over the epoch's steps of all workers that have annotated pixels.
    * `learning_rate`: of the last step.
    * `mean_iou`, `mean_accuracy`, `overall_accuracy`: see `SegmentationMetrics`, of all validation images together, at
      their own sizes, and shown to the network as the setting `protocol` says.
    * `val_loss`: transformers' loss at the network's input size, averaged over the images with annotated pixels.
    * `validation_images`: the number of validation images.

    Losses and scores leave out annotated pixels of 255, and of the model's own `semantic_loss_ignore_index`.

    Each checkpoint is the directory of a `SegformerCheckpoint`, with the trained input size. It also has
    `training.json` (settings, versions and the history of all epochs), `curves.png` (the history as a picture, see
    `draw_curves`), and `optimizer.safetensors` and `training_state.json`, from which an interrupted run resumes.
    Nothing is pickled. Random numbers depend on the epoch, not on earlier epochs. A resumed run therefore gives the
    same result, if Ray Data keeps the order of rows (`preserve_order`). The first worker prints its progress every half
    minute and after each epoch. After the first epoch it warns of classes that are never or hardly annotated in the
    training images (`SegformerWarning`).

    Args:
        config: the `Settings`, as a dict.

    Raises:
        ValueError: a setting is wrong, which the message names; or annotations cannot be right, such as masks
            of 0 and 255, whose foreground would never count. That is found before the first step.
        ImageError: an image cannot be read, or an annotation has unknown class ids. The message names it.
        CheckpointError: `model`, or the checkpoint to resume from, holds no SegFormer.
        FloatingPointError: the loss is not finite, so that no further step can help.
    """
    _train(Settings.of(config), TrainWorker())


def train_in_trial(config: dict[str, Any], datasets: Mapping[str, Any]) -> None:
    """Train as `train_loop_per_worker` does, in a trial: `Tuner(tune.with_parameters(train_in_trial, datasets=...))`.

    The process of the trial trains, on its GPU if it has one, and reports to Ray Tune. A trial has one process, hence
    one GPU at most. Each epoch is a `training_iteration` with a checkpoint, so a scheduler may stop the trial early.
    Ray Data reads with the CPUs that the trials leave. Choose `tune.with_resources` and `max_concurrent_trials` so that
    at least one CPU is left. Otherwise the trials wait forever.

    Args:
        config: the `Settings`, as a dict: a sample of the `Tuner`'s `param_space`.
        datasets: the Ray datasets "train" and "validation", as for `train_loop_per_worker`.

    Raises:
        ValueError: as for `train_loop_per_worker`.
        ImageError: as for `train_loop_per_worker`.
        CheckpointError: as for `train_loop_per_worker`.
        FloatingPointError: as for `train_loop_per_worker`.
        RuntimeError: the caller is not a trial.
    """
    _train(Settings.of(config), TuneTrial(datasets))


def _train(settings: Settings, worker: TrainWorker | TuneTrial) -> None:
    """Train as `train_loop_per_worker` describes, in a worker of Ray Train or a trial of Ray Tune."""
    device, shards = worker.device, worker.shards
    run = resumed_run(worker.checkpoint, settings)
    if run is None:
        run = new_run(settings)
        say(guesses_of(run, settings) if worker.rank == 0 else [])
    if len(run.history) >= settings.epochs:
        if worker.rank == 0:
            print(f"nothing to train: the run that is resumed has done {len(run.history)} epochs, of {settings.epochs}")
        return
    rows = _rows(run, settings, 0)
    run.images = rows.first_pass(shards["train"], device, settings.training_images)
    rows.look_at_validation(shards["validation"], device)
    run.count_steps(max(1, math.ceil(run.images // worker.workers / settings.batch_size)))
    half = settings.mixed_precision == "bfloat16" or (settings.mixed_precision == "auto" and device.type == "cuda")
    if worker.rank == 0 and run.ignore_index != IGNORED:
        print(f"annotated pixels of the class ids {IGNORED} and {run.ignore_index}, the model's own, are left out")
    model = worker.prepare(run.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if run.optimizer is not None:
        optimizer.load_state_dict(run.optimizer)
        for group in optimizer.param_groups:
            group["weight_decay"] = settings.weight_decay

    for epoch in range(len(run.history), settings.epochs):
        rows = _rows(run, settings, epoch)
        torch.manual_seed(combined_seed(settings.seed, epoch, worker.rank))
        losses, rate = [], math.nan
        annotated = np.zeros(run.model.config.num_labels + 1, np.int64)
        progress = _Progress(f"epoch {epoch + 1} of {settings.epochs}", run.steps_an_epoch)
        for batch in rows.training_batches(shards["train"], settings.batch_size):
            rate = settings.learning_rate * schedule(run.step, settings.epochs * run.steps_an_epoch)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            losses.append(train_step(model, optimizer, run.preprocessor, batch, rate, half))
            run.step += 1
            if epoch == 0:
                annotated += rows.labels.count(batch["labels"].cpu().numpy())
            if worker.rank == 0:
                progress.print_if_due(losses)
        if epoch == 0:
            guesses = rows.labels.guesses(sum_over_workers(annotated, device), run.model.config.id2label)
            say(guesses if worker.rank == 0 else [])
        counted = [loss for loss in losses if loss is not None]
        total, steps = sum_over_workers(np.array([sum(counted), len(counted)]), device)
        metrics = {"epoch": epoch + 1, "loss": float(total / steps) if steps else math.nan, "learning_rate": rate}
        if torch.distributed.is_initialized():
            for buffer in run.model.buffers():  # All workers use the batch norm statistics of the one that saves.
                torch.distributed.broadcast(buffer, 0)
        batches = rows.validation_batches(shards["validation"], settings.batch_size)
        scores = evaluate(run.model, run.preprocessor, batches, device, protocol_in(settings.protocol or {}))
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


def _rows(run: TrainingRun, settings: Settings, epoch: int) -> TrainingRows:
    ignored = {} if settings.ignore_index is None else {settings.ignore_index: IGNORED}
    return TrainingRows(
        run.preprocessor,
        run.model.config.num_labels,
        ignore_index=run.ignore_index,
        augmented=settings.augment,
        seed=settings.seed,
        epoch=epoch,
        image_column=settings.image_column,
        annotation_column=settings.annotation_column,
        label_map={**ignored, **(settings.label_map or {})},
        label_colors=settings.label_colors,
        protocol=protocol_in(settings.protocol or {}),
        max_pixels=settings.max_pixels,
    )


class _Progress:
    """Prints the progress of an epoch now and then. Ray shows a worker's output on the driver."""

    def __init__(self, epoch: str, steps: int) -> None:
        self.epoch, self._steps = epoch, steps
        self._started = self._printed = time.monotonic()

    def print_if_due(self, losses: list[float | None]) -> None:
        """Print a line if the last one is half a minute old. `losses` are those of the epoch's steps so far."""
        now = time.monotonic()
        if now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            left = (self._steps - len(losses)) * (now - self._started) / len(losses)
            loss = "none" if losses[-1] is None else f"{losses[-1]:.4f}"
            print(f"{self.epoch}: step {len(losses)} of {self._steps}, loss {loss}, {left:.0f} s left", flush=True)


def schedule(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a step: a linear warm-up times a linear decay, as in the paper."""
    warm_up = max(1, min(_MAX_WARM_UP_STEPS, steps // 10))
    return min(1.0, (step + 1) / warm_up) * max(0.0, 1 - step / steps)


def train_step(
    model: Any, optimizer: Any, preprocessor: SegformerPreprocessor, batch: dict[str, Any], rate: float, half: bool
) -> float | None:
    """Do one step of the optimizer.

    Args:
        model: a transformers `SegformerForSemanticSegmentation`, or the same wrapped for distributed training.
        optimizer: the torch optimizer of the model.
        preprocessor: normalises the images.
        batch: `pixel_values`, uint8 `(N, 3, height, width)`, and `labels`, int64 `(N, height, width)`, on the device.
            Labels of 255 are ignored, whatever class id the model's own loss ignores.
        rate: the learning rate.
        half: whether the forward pass runs in torch's autocast to bfloat16.

    Returns:
        transformers' loss before the step; None if all pixels are ignored.

    Raises:
        FloatingPointError: the loss is not finite. The weights are as before.
    """
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    ignored = batch["labels"] == IGNORED
    own_index = getattr(model, "module", model).config.semantic_loss_ignore_index  # what transformers' loss leaves out
    labels = batch["labels"].masked_fill(ignored, own_index)
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=half):
        output = model(pixel_values=preprocessor.normalize(batch["pixel_values"]), labels=labels)
    counted = not bool(ignored.all())
    # A worker with only ignored pixels must step too, because all workers step together.
    loss = output.loss if counted else output.logits.sum() * 0
    if not loss.isfinite():
        raise FloatingPointError(f"the loss is {loss.item()}; a lower learning_rate may help, which is {rate:g} here")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item() if counted else None
