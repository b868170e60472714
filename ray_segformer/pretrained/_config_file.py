"""The JSON files of a checkpoint: find and read them, and check in `config.json` what building the network does not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ray_segformer.pretrained._image_settings import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.pretrained._weights import WEIGHTS_NAME, CheckpointError

CONFIG_NAME = "config.json"
"""The file that says how the network is built."""

_ARCHITECTURE = "SegformerForSemanticSegmentation"
_ENCODERS = {"SegformerModel", "SegformerForImageClassification"}  # other names are those of subclasses
_SUBFOLDER = "checkpoint"  # where Ray Train's transformers callback puts the directory
_RAY_2_6_NAME = "dict_checkpoint.pkl"  # what Ray 2.6 wrote for `Checkpoint.from_dict`


def find_directory(directory: str) -> str:
    """Return the folder with `config.json`: `directory` or its subfolder `checkpoint/`.

    Raises:
        CheckpointError: neither has it. The message names other folders in `directory` that have it.
    """
    for candidate in (directory, os.path.join(directory, _SUBFOLDER)):
        if os.path.isfile(os.path.join(candidate, CONFIG_NAME)):
            return candidate
    entries = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    inside = [entry for entry in entries if os.path.isfile(os.path.join(directory, entry, CONFIG_NAME))]
    if inside:
        advice = f"; name one of the folders in it that have one: {', '.join(inside[:10])}"
    elif _RAY_2_6_NAME in entries:
        advice = (
            f"; {_RAY_2_6_NAME} is a checkpoint of a dict, of Ray 2.6: docs/migration.md says how to rewrite it there"
        )
    else:
        there = "a file" if os.path.isfile(directory) else "no such directory"
        advice = f", found {entries[:10] if os.path.isdir(directory) else there}"
    raise CheckpointError(
        f"{directory}: no {CONFIG_NAME} there or in {_SUBFOLDER}/; expected a Hugging Face directory with "
        f"{CONFIG_NAME}, {WEIGHTS_NAME} and {PREPROCESSOR_NAME}{advice}"
    )


def check_architecture(config: Mapping[str, Any], path: str, encoder_only: bool) -> None:
    """Check that the configuration describes a SegFormer for RGB images, with a decoder if one is needed."""
    model_type, architectures = config.get("model_type"), config.get("architectures") or [_ARCHITECTURE]
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise CheckpointError(f"{path}: architectures is a list of names, not {architectures!r}")
    if model_type == "segformer" and {*architectures} <= _ENCODERS and not encoder_only:
        raise CheckpointError(
            f"{path}: {', '.join(map(str, architectures))} is an encoder without a decoder for segmentation; "
            "ray_segformer.train can start from it, and makes a checkpoint that predicts"
        )
    if model_type != "segformer":
        raise CheckpointError(
            f"{path}: expected model_type 'segformer' and the architecture {_ARCHITECTURE}, found {model_type!r} and "
            f"{architectures}"
        )
    channels = config.get("num_channels", 3)
    if channels != 3:
        raise CheckpointError(f"{path}: the model takes {channels} channels (num_channels); images here have 3, RGB")


def check_labels(config: Mapping[str, Any], path: str) -> None:
    """Check class names and the ignored class id now, because they are used only later, in workers or other files."""
    labels = config.get("id2label") or {}
    try:
        for number, label in labels.items():
            int(number), str(label).encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: id2label: expected class names by class id: {error}") from error
    ignored = config.get("semantic_loss_ignore_index", 255)
    if isinstance(ignored, bool) or not isinstance(ignored, int):
        raise CheckpointError(f"{path}: semantic_loss_ignore_index is a class id, such as 255, not {ignored!r}")


def read_json(path: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises a `CheckpointError` if it cannot be read, or holds something else."""
    try:
        if not os.path.isfile(path):
            raise OSError("it is not a regular file")  # Reading a pipe or a device may never end.
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
