"""SegFormer as the Hugging Face Hub stores it: the settings of `config.json`, and the tensors' names and shapes.

Only `read_directory` imports torch, which takes more than a second. A process that only checks a model does without.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The defaults of transformers' SegformerConfig, for settings that a config.json leaves out. They describe B0.
_DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "depths": (2, 2, 2, 2),
    "sr_ratios": (8, 4, 2, 1),
    "hidden_sizes": (32, 64, 160, 256),
    "patch_sizes": (7, 3, 3, 3),
    "strides": (4, 2, 2, 2),
    "num_attention_heads": (1, 2, 5, 8),
    "mlp_ratios": (4, 4, 4, 4),
    "hidden_act": "gelu",
    "decoder_hidden_size": 256,
}

ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("gelu", {}),
    "gelu_python": ("gelu", {}),
    "gelu_new": ("gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("gelu", {"approximate": "tanh"}),
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
}
"""For each `hidden_act` that the network knows, the function of `torch.nn.functional`, and its options."""

_BY_STAGE = ("hidden_sizes", "patch_sizes", "strides", "sr_ratios", "mlp_ratios", "num_attention_heads")

# Parts of the names in `SegformerNetwork`, and the parts that replace them in the Hub's names, in this order.
_HUB_NAMES = {
    ".attention.out.": ".attention.output.dense.",
    ".attention.query.": ".attention.self.query.",
    ".attention.key.": ".attention.self.key.",
    ".attention.value.": ".attention.self.value.",
    ".attention.sr.": ".attention.self.sr.",
    ".attention.layer_norm.": ".attention.self.layer_norm.",
    ".mlp.dwconv.": ".mlp.dwconv.dwconv.",
    "embeddings.": "patch_embeddings.",
    "blocks.": "block.",
}


class NetworkError(ValueError):
    """The configuration describes no SegFormer, or the weights do not fit it."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `config.json` with transformers' defaults, and as many values as stages in each list.

    `depths` says how many stages there are. Further values of other lists are cut off, as transformers ignores them:
    its defaults are for four stages.

    Raises:
        NetworkError: a setting is no list, or has fewer values than there are stages.
    """
    whole = {**_DEFAULTS, **config}
    for name in ("depths", *_BY_STAGE):
        if not isinstance(whole[name], (list, tuple)) or len(whole[name]) < len(whole["depths"]):
            raise NetworkError(f"config.json: {name} has a number for each stage, as depths has, not {whole[name]!r}")
    return {**whole, **{name: whole[name][: len(whole["depths"])] for name in _BY_STAGE}}


def read_directory(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read `config.json` and `model.safetensors`; the tensors are converted to float32."""
    from safetensors.torch import load_file

    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    weights = load_file(os.path.join(directory, "model.safetensors"))
    return config, {name: tensor.float() for name, tensor in weights.items()}


def encoder_name(name: str) -> str:
    """Return the Hub's name of a tensor of the encoder, given its name in `SegformerNetwork`."""
    for ours, theirs in _HUB_NAMES.items():
        name = name.replace(ours, theirs)
    return f"segformer.encoder.{name}"


def check_weights(config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Check that the network can be built of a configuration and its weights, without building it.

    Args:
        config: the content of a `config.json`.
        weights: arrays or tensors by the Hub's names. Those that the network does not need are ignored.

    Raises:
        NetworkError: `config` describes no SegFormer; or tensors are missing, have other shapes or hold integers. The
            message names the first five.
    """
    config = completed(config)
    try:
        _check_settings(config, len(weights))
        shapes = {**_encoder_shapes(config), **_decoder_shapes(config)}
    except (TypeError, ValueError, ArithmeticError) as error:
        raise NetworkError(f"config.json describes no SegFormer that can be built: {error}") from error
    problems = [f"{name} is missing" for name in sorted(shapes) if name not in weights] + [
        f"{name} has the shape {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in sorted(shapes.items())
        if name in weights and tuple(weights[name].shape) != shape
    ]
    problems += [
        f"{name} holds {str(weights[name].dtype).removeprefix('torch.')}, expected floats; no quantised weights"
        for name in sorted(shapes)
        if name in weights and "float" not in str(weights[name].dtype)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise NetworkError(f"the weights do not fit config.json: {shown}")


def _check_settings(config: Mapping[str, Any], tensors: int) -> None:
    """Raise a `ValueError` for the first setting that no SegFormer has. There are so many `tensors` in its files."""
    depths = config["depths"]
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"hidden_act is one of {sorted(ACTIVATIONS)}, not {config['hidden_act']!r}")
    if config.get("num_encoder_blocks", len(depths)) != len(depths):
        raise ValueError(f"num_encoder_blocks is {config['num_encoder_blocks']}, and depths are {depths}")
    # A wrong depth could mean a billion blocks.
    if max(depths) > tensors:
        raise ValueError(f"depths are {depths}, but there are only {tensors} tensors")
    for name in ("num_channels", "decoder_hidden_size"):
        if not _is_size(config[name]):
            raise ValueError(f"{name} is a whole number of at least 1, not {config[name]!r}")
    for name in ("hidden_sizes", "patch_sizes", "strides", "sr_ratios", "num_attention_heads"):
        if not all(map(_is_size, config[name])):
            raise ValueError(f"{name} are whole numbers of at least 1, not {config[name]}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _encoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the encoder's tensors by the Hub's names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int) -> None:
        shapes[f"segformer.encoder.{name}.weight"] = weight
        shapes[f"segformer.encoder.{name}.bias"] = weight[:1]

    before = config["num_channels"]
    for stage, depth in enumerate(config["depths"]):
        size, patch_size, _, sr_ratio, mlp_ratio, heads = (config[name][stage] for name in _BY_STAGE)
        inner = size // heads * heads  # the channels of queries, keys and values
        hidden = int(size * mlp_ratio)
        add(f"patch_embeddings.{stage}.proj", size, before, patch_size, patch_size)
        add(f"patch_embeddings.{stage}.layer_norm", size)
        for block in (f"block.{stage}.{number}" for number in range(depth)):
            add(f"{block}.layer_norm_1", size)
            for name in ("query", "key", "value"):
                add(f"{block}.attention.self.{name}", inner, size)
            if sr_ratio > 1:
                add(f"{block}.attention.self.sr", size, size, sr_ratio, sr_ratio)
                add(f"{block}.attention.self.layer_norm", size)
            add(f"{block}.attention.output.dense", size, inner)
            add(f"{block}.layer_norm_2", size)
            add(f"{block}.mlp.dense1", hidden, size)
            add(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            add(f"{block}.mlp.dense2", size, hidden)
        add(f"layer_norm.{stage}", size)
        before = size
    return shapes


def _decoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the decoder's tensors by the Hub's names."""
    size, stages = config["decoder_hidden_size"], config["hidden_sizes"]
    labels = number_of_classes(config)
    shapes: dict[str, tuple[int, ...]] = {
        "decode_head.linear_fuse.weight": (size, size * len(stages), 1, 1),
        "decode_head.classifier.weight": (labels, size, 1, 1),
        "decode_head.classifier.bias": (labels,),
    }
    for name in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"decode_head.batch_norm.{name}"] = (size,)
    for stage, channels in enumerate(stages):
        shapes[f"decode_head.linear_c.{stage}.proj.weight"] = (size, channels)
        shapes[f"decode_head.linear_c.{stage}.proj.bias"] = (size,)
    return shapes


def number_of_classes(config: Mapping[str, Any]) -> int:
    """Return the length of `id2label`; without one `num_labels`, and without that 2."""
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def smallest_side(config: Mapping[str, Any]) -> int:
    """Return the fewest rows and columns, in pixels, of an image that the network takes.

    In the attention of each stage, one vector stands for a square of the stage's map, with a side of `sr_ratio`. The
    map must not be smaller than that.

    Args:
        config: the content of `config.json`.
    """
    config = completed(config)
    stages = [*zip(config["patch_sizes"], config["strides"], config["sr_ratios"], strict=True)]

    def fits(side: int) -> bool:
        for patch_size, stride, sr_ratio in stages:
            side = (side + 2 * (patch_size // 2) - patch_size) // stride + 1
            if side < sr_ratio:
                return False
        return True

    return next(side for side in itertools.count(1) if fits(side))
