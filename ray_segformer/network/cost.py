"""What a SegFormer costs, told by its configuration."""

from __future__ import annotations

from typing import Any

_BY_STAGE = ("hidden_sizes", "depths", "sr_ratios", "mlp_ratios", "patch_sizes", "strides")
# Of transformers' SegformerConfig.
_B0 = {
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [4, 4, 4, 4],
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "decoder_hidden_size": 256,
}


def gmac(config: dict[str, Any], height: int, width: int, folded: bool = True) -> float:
    """The multiply-adds, in 10^9, of an image's logits by a SegFormer.

    Counts convolutions and matrix products, attention's too; what is not multiplied by weights or by each other
    (norms, softmax, GELU, upsampling) is left out.

    Args:
        config: the content of a `config.json`, of which missing settings have transformers' defaults, B0's.
        height, width: of `pixel_values`.
        folded: whether the decoder's projection, fuse convolution and batch norm are one matrix for each stage, applied
            at the stage's size; else as in the paper and in transformers.
    """
    config = {**_B0, **config}
    stages = zip(*(config[name] for name in _BY_STAGE), strict=True)
    decoder = config["decoder_hidden_size"]
    total, before, tokens_of_first = 0, config.get("num_channels", 3), 0
    for channels, depth, sr_ratio, mlp_ratio, patch, stride in stages:
        height, width = -(-height // stride), -(-width // stride)
        tokens, hidden = height * width, channels * mlp_ratio
        reduced = (height // sr_ratio) * (width // sr_ratio) if sr_ratio > 1 else tokens
        tokens_of_first = tokens_of_first or tokens
        total += tokens * before * channels * patch**2
        block = 2 * tokens * channels**2  # queries, and attention's output
        block += 2 * reduced * channels**2  # keys and values
        block += reduced * sr_ratio**2 * channels**2 if sr_ratio > 1 else 0
        block += 2 * tokens * reduced * channels  # scores, and what they weigh
        block += 2 * tokens * channels * hidden + tokens * hidden * 9  # the feed-forward network
        total += depth * block
        total += tokens * channels * decoder  # the decoder's projection
        if not folded:
            total += tokens_of_first * decoder**2  # the stage's slice of the fuse convolution
        before = channels
    total += tokens_of_first * decoder * len(config["id2label"])
    return total / 1e9
