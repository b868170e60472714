"""What a training run starts from: a model, or a configuration alone."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ray_segformer._guesses import say
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.pretrained import CheckpointError, SegformerContent, local_directory, quiet_transformers

if TYPE_CHECKING:
    from ray_segformer.training._settings import Settings

_HARMLESS = ("num_labels", "torch_dtype", "image_size", "downsampling_rates")  # of older configurations


def content_of(model: Any) -> SegformerContent:
    """Return what to start from; a directory or a name of the Hub may hold an encoder alone."""
    if isinstance(model, SegformerCheckpoint):
        return model.content
    content = SegformerContent.read(local_directory(model), encoder_only=True)
    say(content.guesses)
    return content


def digest_of_start(settings: Settings) -> str:
    """Return a hash of what a run starts from: of the weights of `settings.model`, or else of `settings.config`.

    Raises:
        CheckpointError: `settings.model` holds no SegFormer.
    """
    digest = hashlib.blake2b(digest_size=16)
    if settings.model is None:
        digest.update(json.dumps(settings.config, sort_keys=True, default=str).encode())
    else:
        weights = content_of(settings.model).weights
        for name in sorted(weights):
            digest.update(f"{name} {weights[name].dtype} {weights[name].shape}".encode())
            digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse keys that `SegformerConfig` accepts but ignores, and lists without exactly one entry for each stage."""
    defaults = SegformerConfig().to_dict()
    known = {*defaults, *_HARMLESS}
    unknown = sorted(name for name in config if name not in known and not name.startswith("_"))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ValueError(
            f"config has keys that SegformerConfig does not use: {', '.join(unknown)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    stages = config.get("num_encoder_blocks", defaults["num_encoder_blocks"])
    lists = {name: config.get(name, default) for name, default in defaults.items() if isinstance(default, list)}
    wrong = [
        f"{name} is {value!r}"
        for name, value in lists.items()
        if not isinstance(value, (list, tuple)) or len(value) != stages
    ]
    if wrong:
        raise ValueError(f"config: each list has an entry for each of {stages} num_encoder_blocks; {', '.join(wrong)}")


def with_new_decoder(content: SegformerContent, config: Any) -> Any:
    """Return a model with the encoder of `content` and a random decoder, like transformers' `from_pretrained`."""
    encoder = {name: tensor for name, tensor in content.tensors.items() if name.startswith("segformer.")}
    with quiet_transformers():
        load: Any = SegformerForSemanticSegmentation.from_pretrained
        model, report = load(None, config=config, state_dict=encoder, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("decode_head."))
    if missing:
        raise CheckpointError(f"{content.source}: no tensor {missing[0]} (and {len(missing) - 1} more of the encoder)")
    return model
