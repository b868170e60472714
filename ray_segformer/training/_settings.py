"""The settings of a fine-tuning run, which `train_loop_config` holds."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ray_segformer._labels import Labels
from ray_segformer.images import MAX_PIXELS
from ray_segformer.pretrained import ImageSettings
from ray_segformer.protocol import NAMES, protocol_in


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `train_loop_config` and their defaults. Either `model` or `config` is required.

    Attributes:
        model: the model to start from: a `SegformerCheckpoint`, or a directory or Hub name, which every worker reads.
        config: to train from scratch, a transformers `SegformerConfig` as a dict.
        id2label: class names by class id; None for those of `model` or `config`. If the number of classes differs from
            the model's, the classifier starts with new weights, as with transformers' `ignore_mismatched_sizes=True`.
        epochs: passes over the training data.
        batch_size: images per step and worker.
        learning_rate: the learning rate of all parameters after the warm-up. The warm-up is a tenth of all steps, at
            most 1500. Over all steps, the rate falls linearly to zero.
        weight_decay: AdamW's weight decay.
        size: `(height, width)` of crops, `{"height": h, "width": w}`, or one number for a square; also the input size
            of the trained model. None for the size in the model's `preprocessor_config.json`.
        reduce_labels: whether annotations are numbered as in ADE20K (0 is other); None for the model's own setting, or
            False with `label_colors`.
        label_map: other class ids for ids of the annotations, such as `{255: 1}`.
        label_colors: class ids by RGB colours, `{(r, g, b): id}`, for annotations of colours; see `LabelFormat`.
        ignore_index: a further id of the annotations that is ignored, such as 65535.
        augment: whether to change training images at random (see `augment`). Otherwise they are resized whole.
        seed: the seed of augmentation, order, dropout and new weights.
        image_column: the column with image cells (see `ray_segformer.images`).
        annotation_column: the column with annotations, which are image cells, too.
        mixed_precision: "bfloat16" for torch's autocast, "float32" for none, "auto" for bfloat16 on CUDA and float32 on
            CPUs. It has not been run on CUDA yet.
        protocol: how validation images are shown to the network: arguments of `Protocol`, such as `{"window": 512,
            "stride": 384}`. None for images that are resized to the input size.
        training_images: the number of training images of all workers; None to count them in a pass over the data, which
            decodes no image and few annotations.
        max_pixels: an image with more pixels is an error, as for `SegformerPreprocessor`.

    Raises:
        ValueError: a setting has an invalid value.
    """

    model: Any = None
    config: Mapping[str, Any] | None = None
    id2label: Mapping[int, str] | None = None
    epochs: int = 10
    batch_size: int = 8
    learning_rate: float = 6e-5
    weight_decay: float = 0.01
    size: int | tuple[int, int] | Mapping[str, int] | None = None
    reduce_labels: bool | None = None
    label_map: Mapping[int, int] | None = None
    label_colors: Mapping[tuple[int, int, int], int] | None = None
    ignore_index: int | None = None
    augment: bool = True
    seed: int = 0
    image_column: str = "image"
    annotation_column: str = "annotation"
    mixed_precision: str = "auto"
    protocol: Mapping[str, Any] | None = None
    training_images: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if (self.model is None) == (self.config is None):
            both = ", and has both" if self.model is not None else ""
            raise ValueError(f"train_loop_config needs either 'model' or, to start from scratch, 'config'{both}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("max_pixels", 1)):
            _check_number(name, getattr(self, name), numbers.Integral, least)
        if self.training_images is not None:
            _check_number("training_images", self.training_images, numbers.Integral, 1)
        for name in ("learning_rate", "weight_decay"):
            _check_number(name, getattr(self, name), numbers.Real, 0)
        for name, flag in (("augment", self.augment), ("reduce_labels", self.reduce_labels or False)):
            if not isinstance(flag, (bool, np.bool_)):
                raise ValueError(f"{name} is True or False, not {flag!r}")
        for name in ("image_column", "annotation_column"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is the name of a column, not {getattr(self, name)!r}")
        for name in ("config", "id2label", "label_map", "label_colors", "protocol"):
            if not isinstance(getattr(self, name), (Mapping, type(None))):
                raise ValueError(f"{name} is a dict, not {getattr(self, name)!r}")
        for number in self.id2label or ():
            if not str(number).isdecimal():
                raise ValueError(f"id2label names classes by whole numbers, not by {number!r}")
        if self.size is not None:
            ImageSettings(self.size)  # checks it
        Labels(
            2**16, label_map=self.label_map, label_colors=self.label_colors, ignore_index=self.ignore_index
        )  # checks them
        unknown = sorted(set(self.protocol or {}) - set(NAMES))
        if unknown:
            raise ValueError(f"unknown keys in protocol: {', '.join(unknown)}; known are {', '.join(NAMES)}")
        protocol_in(self.protocol or {})  # checks the values
        if self.mixed_precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f'mixed_precision is "auto", "bfloat16" or "float32", not {self.mixed_precision!r}')

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Make the settings from a `train_loop_config`.

        Raises:
            ValueError: there are unknown keys, which the message names, or a setting has an invalid value.
        """
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ValueError(f"unknown keys in train_loop_config: {', '.join(unknown)}; known are {', '.join(known)}")
        if config.get("label_colors") and config.get("reduce_labels") is None:
            config = {**config, "reduce_labels": False}  # colours have the model's own class ids
        return cls(**config)


def _check_number(name: str, value: Any, kind: Any, least: int) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is a {'whole ' * (kind is numbers.Integral)}number, not {value!r}")
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {least} or more, not {value!r}")
