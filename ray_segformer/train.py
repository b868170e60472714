"""Fine-tuning SegFormer on Ray Train: a training loop for `TorchTrainer`.

    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"model": "nvidia/segformer-b0-finetuned-ade-512-512", "epochs": 20, "batch_size": 4},
        scaling_config=ScalingConfig(num_workers=4),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
        datasets={"train": read_ade20k(root, "training"), "validation": read_ade20k(root, "validation")},
        dataset_config=EveryRowOfValidation(),
    )
    SegformerPredictor.from_checkpoint(trainer.fit().checkpoint)

Model and loss are transformers'. Encoded images stream from Ray Data into each worker, which decodes and augments them
in the background. It is tested on CPUs; on a GPU none of it has been run.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
import transformers
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import ray_segformer
from ray_segformer.augment import IGNORED, EveryRowOfValidation, TrainingRows, mixed
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.network import upsampled_argmax
from ray_segformer.preprocessor import SegformerPreprocessor

__all__ = ["EveryRowOfValidation", "Settings", "train_loop_per_worker"]

STATE_NAME = "training_state.json"
OPTIMIZER_NAME = "optimizer.safetensors"

_MOST_WARM_UP_STEPS = 1500  # the paper's


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `train_loop_config` may hold. One of `model` and `config` is needed.

    Attributes:
        model: what to start from, a `SegformerCheckpoint`, or a directory or Hub name, which every worker then reads.
        config: to train from scratch, a transformers `SegformerConfig` as a dict.
        id2label: class names by class id; None for those of `model` or `config`. Where their number is another, the
            classifier starts anew, as with transformers' `ignore_mismatched_sizes=True`; else its weights stay.
        epochs: passes over the training data.
        batch_size: images a step and worker.
        learning_rate: of all parameters, after the warm-up: a tenth of all steps, at most 1500. Through all steps it
            falls linearly to zero.
        weight_decay: AdamW's.
        size: `(height, width)` of crops, and of the network's input ever after, or one number; None for the size in
            the model's `preprocessor_config.json`.
        reduce_labels: whether annotations are ADE20K's (0 is other); None for what the model says.
        augment: whether to change training images at random (`ray_segformer.augment`); else they are resized whole.
        seed: of augmentation, order, dropout and new weights.
        image_column, annotation_column: columns of image cells (see `ray_segformer.images`).
        mixed_precision: "bfloat16" for torch's autocast, "float32" for none, "auto" for the first on CUDA and the
            second on CPUs. Never run on CUDA yet.
        training_images: how many there are over all workers; None to count them in a pass over the data, undecoded.

    Raises:
        ValueError: a setting has none of its values.
    """

    model: Any = None
    config: Mapping[str, Any] | None = None
    id2label: Mapping[int, str] | None = None
    epochs: int = 10
    batch_size: int = 8
    learning_rate: float = 6e-5
    weight_decay: float = 0.01
    size: int | tuple[int, int] | None = None
    reduce_labels: bool | None = None
    augment: bool = True
    seed: int = 0
    image_column: str = "image"
    annotation_column: str = "annotation"
    mixed_precision: str = "auto"
    training_images: int | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.config is None):
            raise ValueError("train_loop_config needs either 'model' or, to start from scratch, 'config'")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or more, not {self.seed}")
        if self.mixed_precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f'mixed_precision is "auto", "bfloat16" or "float32", not {self.mixed_precision!r}')

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Those in a `train_loop_config`.

        Raises:
            ValueError: it has unknown keys, which the message names, or as for the class.
        """
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ValueError(f"unknown keys in train_loop_config: {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**config)


@dataclass
class _Run:
    """A model in training, and how far it is."""

    model: Any
    preprocessor: SegformerPreprocessor
    base: str | None
    images: int | None = None
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Any] | None = None


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """Train, and after each epoch score, save and report; for `ray.train.torch.TorchTrainer`.

    Needs the datasets "train" and "validation" with images and annotations, such as those of `ray_segformer.datasets`.
    Reports `epoch` (from 1), `loss` (of training, the mean over its steps), `learning_rate` (of the last step),
    and of all validation images together, at their own sizes, `mean_iou`, `mean_accuracy` and `overall_accuracy`
    (see `SegmentationMetrics`), `val_loss` (transformers' of each image at the network's size, the mean) and
    `validation_images`.

    Each checkpoint is a `SegformerCheckpoint`'s directory: with its size, `training.json` (settings, versions and the
    history of all epochs), and `optimizer.safetensors` and `training_state.json`, from which a run that was interrupted
    goes on. Nothing is pickled. Each epoch has random numbers of its own, so that a resumed one repeats what would
    have been, as far as Ray Data keeps the order (`preserve_order`).

    Args:
        config: `Settings`, as a dict.

    Raises:
        ValueError: a setting is unknown or wrong, or an annotation has ids outside the classes; the message names it.
        ImageError: an image cannot be read; the message names it.
        CheckpointError: `model`, or the checkpoint to resume from, holds no SegFormer.
    """
    settings = Settings.of(config)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    run = _resumed_run() or _new_run(settings)
    shards = {name: ray.train.get_dataset_shard(name) for name in ("train", "validation")}
    if run.images is None:
        run.images = settings.training_images or _count_rows(shards["train"], device)
    steps_an_epoch = max(1, math.ceil(run.images // context.get_world_size() / settings.batch_size))
    half = settings.mixed_precision == "bfloat16" or (settings.mixed_precision == "auto" and device.type == "cuda")
    model = ray.train.torch.prepare_model(run.model)
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
        torch.manual_seed(mixed(settings.seed, epoch, context.get_world_rank()))
        losses, rate = [], math.nan
        for batch in rows.training_batches(shards["train"], settings.batch_size):
            rate = settings.learning_rate * schedule(run.step, settings.epochs * steps_an_epoch)
            losses.append(train_step(model, optimizer, run.preprocessor, batch, rate, half))
            run.step += 1
        counted = [loss for loss in losses if loss is not None]
        total, steps = _sum_over_workers(np.array([sum(counted), len(counted)]), device)
        metrics = {"epoch": epoch + 1, "loss": float(total / steps) if steps else math.nan, "learning_rate": rate}
        if torch.distributed.is_initialized():
            for buffer in run.model.buffers():  # batch norm's statistics are those of the worker that saves
                torch.distributed.broadcast(buffer, 0)
        batches = rows.validation_batches(shards["validation"], settings.batch_size)
        scores = evaluate(run.model, run.preprocessor, batches, device)
        run.history.append({**metrics, **scores})
        metrics |= {name: score for name, score in scores.items() if name != "per_category_iou"}
        if context.get_world_rank() == 0:
            with tempfile.TemporaryDirectory(prefix="segformer_") as folder:
                directory = os.path.join(folder, "checkpoint")
                _save(directory, run, settings, optimizer)
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))
        else:
            ray.train.report(metrics)


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
    loss, counted, images = _sum_over_workers(np.array([loss, counted, images]), device)
    metrics.confusion = _sum_over_workers(metrics.confusion, device)
    scores = metrics.compute()
    del scores["per_category_accuracy"]
    return {"val_loss": float(loss / counted) if counted else math.nan, "validation_images": int(images), **scores}


def _count_rows(shard: Any, device: torch.device) -> int:
    """The rows of all workers' shards."""
    own = sum(table.num_rows for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"))
    total = int(_sum_over_workers(np.array([own]), device)[0])
    if not own:
        raise ValueError(f"the dataset 'train' has no rows for every worker: {total} in all")
    return total


def _new_run(settings: Settings) -> _Run:
    """Before the first step."""
    checkpoint = None
    if settings.model is None:
        config, options = dict(settings.config or {}), {}
    else:
        checkpoint = settings.model
        if not isinstance(checkpoint, SegformerCheckpoint):
            checkpoint = SegformerCheckpoint.from_pretrained(checkpoint)
        config, options = checkpoint.content.config, checkpoint.content.preprocessor
    if settings.id2label is not None:
        labels = {int(number): str(name) for number, name in settings.id2label.items()}
        if sorted(labels) != list(range(len(labels))):
            raise ValueError(f"id2label names the classes 0 to {len(labels) - 1}, not {sorted(labels)}")
        config = {name: value for name, value in config.items() if name != "num_labels"}
        config |= {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    torch.manual_seed(settings.seed)
    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(config))
    classes, ignored = len(model.config.id2label or {}), model.config.semantic_loss_ignore_index
    if not 2 <= classes <= IGNORED or ignored != IGNORED:
        raise ValueError(f"a model of 2 to {IGNORED} classes that ignores {IGNORED}, not of {classes}, {ignored}")
    if checkpoint is not None:
        weights = checkpoint.get_model().state_dict()
        if len(weights["decode_head.classifier.bias"]) != classes:
            weights = {name: tensor for name, tensor in weights.items() if "decode_head.classifier." not in name}
        model.load_state_dict(weights, strict=False)
    changes: dict[str, Any] = {"do_resize": True}
    if settings.size is not None:
        height, width = (settings.size,) * 2 if isinstance(settings.size, int) else settings.size
        changes["size"] = {"height": height, "width": width}
    if settings.reduce_labels is not None:
        changes["do_reduce_labels"] = settings.reduce_labels
    preprocessor = SegformerPreprocessor.from_config({**options, **changes})
    return _Run(model, preprocessor, checkpoint and checkpoint.content.source)


def _resumed_run() -> _Run | None:
    """What the run's last checkpoint holds; None where there is none."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        content = SegformerCheckpoint.from_pretrained(directory).content
        try:
            with open(os.path.join(directory, STATE_NAME), encoding="utf-8") as file:
                state = json.load(file)
            tensors = load_file(os.path.join(directory, OPTIMIZER_NAME))
        except OSError as error:
            raise ValueError(f"{directory} is no checkpoint to resume from, but one to start from: {error}") from error
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, kind = name.partition(".")
        moments.setdefault(int(number), {})[kind] = tensor
    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(content.config))
    model.load_state_dict(content.build_model().state_dict())
    return _Run(
        model,
        SegformerPreprocessor.from_config(content.preprocessor),
        content.training["base_model"],
        state["training_images"],
        state["step"],
        content.training["history"],
        {"state": moments, "param_groups": state["param_groups"]},
    )


def _save(directory: str, run: _Run, settings: Settings, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of an epoch."""
    kept = {
        each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in ("model", "config")
    }
    kept |= {
        "id2label": run.model.config.id2label,
        "size": [run.preprocessor.height, run.preprocessor.width],
        "reduce_labels": run.preprocessor.do_reduce_labels,
        "training_images": run.images,
    }
    versions = {each.__name__: each.__version__ for each in (ray, torch, transformers, ray_segformer)}
    training = {
        "settings": kept,
        "base_model": run.base,
        "workers": ray.train.get_context().get_world_size(),
        "epoch": len(run.history),
        "history": run.history,
        "versions": versions,
    }
    SegformerCheckpoint.from_model(run.model, run.preprocessor, directory, training=_json(training))
    state = optimizer.state_dict()
    moments = {f"{number}.{kind}": tensor for number, kinds in state["state"].items() for kind, tensor in kinds.items()}
    save_file(moments, os.path.join(directory, OPTIMIZER_NAME))
    content = {"step": run.step, "training_images": run.images, "param_groups": state["param_groups"]}
    with open(os.path.join(directory, STATE_NAME), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def _json(value: Any) -> Any:
    """A value as JSON can hold it: NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_json(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _sum_over_workers(values: np.ndarray, device: torch.device) -> np.ndarray:
    """The workers' arrays of one shape and dtype, added up."""
    if not torch.distributed.is_initialized():
        return values
    tensor = torch.from_numpy(values.copy()).to(device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()
