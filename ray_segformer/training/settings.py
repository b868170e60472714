"""The settings of a fine-tuning run: what `train_loop_config` may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


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
        augment: whether to change training images at random (`augment`); else they are resized whole.
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
