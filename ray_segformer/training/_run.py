"""A training run: new, saved in a checkpoint after each epoch, or resumed from one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import ray_segformer
from ray_segformer._guesses import Guess
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import ImageError
from ray_segformer.network import smallest_side
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.pretrained import ImageSettings
from ray_segformer.protocol import protocol_in, resized
from ray_segformer.training._augmentation import IGNORED
from ray_segformer.training._start import check_config, content_of, digest_of_start, with_new_decoder
from ray_segformer.viz import draw_curves

if TYPE_CHECKING:
    from ray_segformer.training._settings import Settings

STATE_NAME = "training_state.json"
OPTIMIZER_NAME = "optimizer.safetensors"
CURVES_NAME = "curves.png"
_OF_MODEL = ("id2label", "size", "reduce_labels")  # settings that are the model's own if they are None
_FIXED = (*_OF_MODEL, "label_map", "label_colors", "ignore_index")  # settings that a run keeps when it is resumed
_ADVICE = "use the earlier settings, or give the new run another name or storage_path in RunConfig"
_LARGE = (2**15, 2**15)  # height and width of an image that is large enough for each protocol


@dataclass
class TrainingRun:
    """A model in training, and the progress of the run.

    Attributes:
        model: a transformers `SegformerForSemanticSegmentation`.
        preprocessor: the preprocessor of its images.
        base: the source of the model that the run started from; None if it started from scratch.
        start: a hash of what the run started from; None for runs of earlier versions.
        images: the number of training images of all workers; None if they are not counted yet.
        step: the number of steps so far.
        steps_an_epoch: the steps of an epoch, from the number of images; 0 before that is known.
        history: the metrics of each epoch so far.
        optimizer: the optimizer's state dict; None before the first step.
    """

    model: Any
    preprocessor: SegformerPreprocessor
    base: str | None
    start: str | None
    images: int | None = None
    step: int = 0
    steps_an_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Any] | None = None

    def count_steps(self, steps_an_epoch: int) -> None:
        """Set the steps of an epoch. Those so far count as if all epochs had so many: the learning rate goes on."""
        if self.steps_an_epoch:
            self.step = round(self.step * steps_an_epoch / self.steps_an_epoch)
        self.steps_an_epoch = steps_an_epoch

    @property
    def ignore_index(self) -> int:
        """The class id that the model's loss leaves out: its own `semantic_loss_ignore_index`."""
        return int(self.model.config.semantic_loss_ignore_index)


def new_run(settings: Settings) -> TrainingRun:
    """Make a run that starts at the first step.

    Raises:
        ValueError: the class names have gaps, or the model's number of classes is not supported, or the network needs
            larger images, or `settings.config` describes no SegFormer.
        CheckpointError: `settings.model` holds no SegFormer.
    """
    content = None
    if settings.model is None:
        config, options = dict(settings.config or {}), {}
        check_config(config)
    else:
        content = content_of(settings.model)
        if not content.has_decoder and settings.id2label is None:
            raise ValueError(f"{content.source} is an encoder without classes; name yours: id2label={{0: ..., 1: ...}}")
        config, options = {**content.config, "architectures": None}, content.preprocessor
    if settings.id2label is not None:
        labels = {int(number): str(name) for number, name in settings.id2label.items()}
        if sorted(labels) != list(range(len(labels))):
            raise ValueError(f"id2label must name the classes 0 to {len(labels) - 1}, but names {sorted(labels)}")
        config = {name: value for name, value in config.items() if name != "num_labels"}
        config |= {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    torch.manual_seed(settings.seed)
    if content is not None and not content.has_decoder:
        model = with_new_decoder(content, SegformerConfig.from_dict(config))
    else:
        try:
            model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(config))
        except Exception as error:  # transformers checks little, so it raises anything
            raise ValueError(f"config: transformers builds no SegFormer of it: {error!r}") from error
    classes = len(model.config.id2label or {})
    if not 2 <= classes <= IGNORED:
        raise ValueError(f"training needs 2 to {IGNORED} classes; the model has {classes}")
    if content is not None and content.has_decoder:
        weights = content.build_model().state_dict()
        if content.num_labels != classes:
            weights = {name: tensor for name, tensor in weights.items() if "decode_head.classifier." not in name}
        model.load_state_dict(weights, strict=False)
    changes: dict[str, Any] = {"do_resize": True}
    if settings.size is not None:
        changes["size"] = ImageSettings(settings.size).size
    if settings.reduce_labels is not None:
        changes["do_reduce_labels"] = settings.reduce_labels
    preprocessor = SegformerPreprocessor.from_config({**options, **changes})
    if "height" not in preprocessor.size:
        raise ValueError(
            f"the model's size {preprocessor.size} keeps the aspect ratio, but crops need height and width; set size="
        )
    smallest = smallest_side(model.config.to_dict())
    if min(preprocessor.height, preprocessor.width) < smallest:
        shape = f"{preprocessor.height} x {preprocessor.width}"
        raise ValueError(f"size: the network needs at least {smallest} pixels on each side, not {shape}")
    protocol = protocol_in(settings.protocol or {})
    shown = resized(protocol.resize_of_image, preprocessor, *_LARGE)
    try:
        protocol.check_sides(shown, _LARGE, preprocessor, smallest)
    except ImageError as error:
        raise ValueError(f"protocol: {error}") from error
    return TrainingRun(model, preprocessor, content.source if content else None, digest_of_start(settings))


def guesses_of(run: TrainingRun, settings: Settings) -> list[Guess]:
    """Return what a new run assumes: "labels-reduced", if own classes are taken to be numbered as the model's are."""
    if settings.id2label is None or settings.reduce_labels is not None or not run.preprocessor.do_reduce_labels:
        return []
    message = (
        "annotations are taken to count classes from 1, and 0 to be ignored, as those of the model that training "
        "starts from; if 0 is a class of id2label, set reduce_labels=False, else True"
    )
    return [Guess("labels-reduced", message)]


def resumed_run(checkpoint: Any, settings: Settings) -> TrainingRun | None:
    """Load the run from its last checkpoint; None if there is no checkpoint.

    Raises:
        ValueError: the checkpoint has no state of a run, or that run had other settings of `_FIXED`, or it started from
            another model or configuration.
        CheckpointError: the checkpoint, or `settings.model`, holds no SegFormer.
    """
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        content = SegformerCheckpoint.from_pretrained(directory).content
        try:
            with open(os.path.join(directory, STATE_NAME), encoding="utf-8") as file:
                state = json.load(file)
            tensors = load_file(os.path.join(directory, OPTIMIZER_NAME))
            before = {name: content.training["settings"].get(name) for name in _FIXED}
            base, history = content.training["base_model"], content.training["history"]
            start, steps_an_epoch = state.get("start"), state.get("steps_an_epoch", 0)  # earlier versions lack them
            step, groups = state["step"], state["param_groups"]
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                number, _, kind = name.partition(".")
                moments.setdefault(int(number), {})[kind] = tensor
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"{directory}: cannot resume from this checkpoint, because it has no training state, or a damaged one; "
                f"pass it as 'model' to start a new run from it: {error!r}"
            ) from error
        _check_unchanged(before, settings, directory)
        if start not in (None, digest_of_start(settings)):
            kind = "config" if settings.model is None else "model"
            raise ValueError(
                f"{directory}: the run started from another model than this {kind}, and would go on from that one; "
                f"{_ADVICE}"
            )
    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(content.config))
    model.load_state_dict(content.build_model().state_dict())
    return TrainingRun(
        model,
        SegformerPreprocessor.from_config(content.preprocessor),
        base,
        start,
        step=step,
        steps_an_epoch=steps_an_epoch,
        history=history,
        optimizer={"state": moments, "param_groups": groups},
    )


def _check_unchanged(before: Mapping[str, Any], settings: Settings, directory: str) -> None:
    """Refuse to resume a run whose classes, size or annotations would change in the middle of it."""
    now = {name: _for_json(getattr(settings, name)) for name in _FIXED}
    if now["size"] is not None:
        size = ImageSettings(now["size"]).size
        now["size"] = [size.get("height"), size.get("width")]
    if now["id2label"] is not None:
        now["id2label"] = {number: str(name) for number, name in now["id2label"].items()}
    changed = [name for name in _FIXED if now[name] != before[name] and not (now[name] is None and name in _OF_MODEL)]
    if changed:
        were = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in changed)
        raise ValueError(f"{directory}: {were}: a resumed run must keep these settings; {_ADVICE}")


def save_run(
    directory: str, run: TrainingRun, settings: Settings, optimizer: torch.optim.Optimizer, workers: int
) -> None:
    """Write the checkpoint of an epoch into `directory`."""
    used_settings = {
        setting.name: getattr(settings, setting.name)
        for setting in fields(settings)
        if setting.name not in ("model", "config")
    }
    used_settings |= {
        "id2label": run.model.config.id2label,
        "size": [run.preprocessor.height, run.preprocessor.width],
        "reduce_labels": run.preprocessor.do_reduce_labels,
        "semantic_loss_ignore_index": run.ignore_index,
        "training_images": run.images,
    }
    versions = {package.__name__: package.__version__ for package in (ray, torch, transformers, ray_segformer)}
    training: Any = {
        "settings": used_settings,
        "base_model": run.base,
        "workers": workers,
        "epoch": len(run.history),
        "history": run.history,
        "versions": versions,
    }
    training = _for_json(training)
    SegformerCheckpoint.from_model(run.model, run.preprocessor, directory, training=training)
    draw_curves(training).save(os.path.join(directory, CURVES_NAME))
    state = optimizer.state_dict()
    moments = {f"{number}.{kind}": tensor for number, kinds in state["state"].items() for kind, tensor in kinds.items()}
    save_file(moments, os.path.join(directory, OPTIMIZER_NAME))
    content = {"start": run.start, "step": run.step, "steps_an_epoch": run.steps_an_epoch}
    content |= {"param_groups": state["param_groups"]}
    with open(os.path.join(directory, STATE_NAME), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def _for_json(value: Any) -> Any:
    """Convert a value to types of JSON. NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_for_json(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
