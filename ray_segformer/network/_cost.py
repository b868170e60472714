"""The arithmetic that a SegFormer needs for an image, computed from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_segformer.network._hub_format import completed, number_of_classes

_BY_STAGE = ("hidden_sizes", "depths", "sr_ratios", "mlp_ratios", "patch_sizes", "strides")


def gmac(config: Mapping[str, Any], height: int, width: int, folded: bool = True) -> float:
    """Return how many multiply-adds, in 10^9, a SegFormer needs for the logits of one image.

    Counts convolutions and matrix products, including those of attention. Norms, softmax, GELU and upsampling are not
    counted.

    Args:
        config: the content of a `config.json`. Missing settings have transformers' defaults, which are B0's.
        height, width: the size of `pixel_values`.
        folded: count the decoder as this package computes it: projection, fuse convolution and batch norm are one
            matrix for each stage, applied at the stage's size. False: as in the paper and in transformers.
    """
    config = completed(config)
    stages = zip(*(config[name] for name in _BY_STAGE), strict=True)
    decoder = config["decoder_hidden_size"]
    total, before, tokens_of_first = 0, config["num_channels"], 0
    for channels, depth, sr_ratio, mlp_ratio, patch, stride in stages:
        height, width = -(-height // stride), -(-width // stride)
        tokens, hidden = height * width, channels * mlp_ratio
        reduced = (height // sr_ratio) * (width // sr_ratio) if sr_ratio > 1 else tokens
        tokens_of_first = tokens_of_first or tokens
        total += tokens * before * channels * patch**2  # the patch embedding
        block = 2 * tokens * channels**2  # queries, and the output of attention
        block += 2 * reduced * channels**2  # keys and values
        block += reduced * sr_ratio**2 * channels**2 if sr_ratio > 1 else 0  # the reduction of keys and values
        block += 2 * tokens * reduced * channels  # scores, and the values weighted by them
        block += 2 * tokens * channels * hidden + tokens * hidden * 9  # the feed-forward network
        total += depth * block
        total += tokens * channels * decoder  # the decoder's projection
        if not folded:
            total += tokens_of_first * decoder**2  # the stage's slice of the fuse convolution
        before = channels
    total += tokens_of_first * decoder * number_of_classes(config)
    return float(total / 1e9)
