"""The SegFormer network (Xie et al., 2021, https://arxiv.org/abs/2105.15203), for inference.

The encoder has four stages. Each embeds overlapping patches and passes them through transformer blocks. The stages'
feature maps have 1/4, 1/8, 1/16 and 1/32 of the image's height and width. The decoder brings all of them to D channels
and to 1/4 of the image's size, adds them and classifies each pixel. It is computed in a cheaper, equal form:
`_decoder.py` explains it.

Feature maps are NHWC throughout. The tokens of attention, (B, H * W, C), and the image of a convolution, (B, H, W, C),
are then the same memory, and need no transpose. In comments, B is the batch size, H and W are the size of the map, C is
its channels, N is the number of heads with C' channels each, and D is the decoder's channels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_segformer.network._decoder import decode, decode_in_strips, fold_decoder
from ray_segformer.network._hub_format import ACTIVATIONS, check_weights, completed, encoder_name, read_directory
from ray_segformer.network._layers import Linear, convolve, pointwise

_SCORES = 2**21  # attention scores that are computed at once by convolution: 8 MiB, which stay in the CPU's cache


class PatchEmbedding(nn.Module):
    """Overlapping patches of the image, or of the previous stage's map: (B, H, W, C) to (B, H / s, W / s, C2)."""

    def __init__(self, channels: int, out_channels: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out_channels, patch_size, stride, patch_size // 2)
        self.layer_norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches."""
        tokens: Tensor = self.layer_norm(convolve(self.proj, x))
        return tokens


class Attention(nn.Module):
    """Self-attention with fewer keys and values: `sr_ratio` times fewer along the height and along the width."""

    by_convolution = False

    def __init__(self, channels: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        inner = channels // heads * heads  # C, or a little less where it is not a multiple of the heads
        self.heads = heads
        self.query = Linear(channels, inner)
        self.key = Linear(channels, inner)
        self.value = Linear(channels, inner)
        self.out = Linear(inner, channels)
        self.reduces = sr_ratio > 1
        if self.reduces:
            self.sr = nn.Conv2d(channels, channels, sr_ratio, sr_ratio)
            self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens of (B, H, W, C) attend to each other."""
        reduced = self.layer_norm(convolve(self.sr, x)) if self.reduces else x  # (B, h, w, C)
        by_convolution = self.by_convolution and len(x) == 1 and not torch.compiler.is_compiling()
        attend = _attend_by_convolution if by_convolution else _attend
        attended: Tensor = self.out(attend(self.query(x), self.key(reduced), self.value(reduced), self.heads))
        return attended


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return softmax(query key^T / sqrt(C')) value for each head: query (B, H, W, C), key and value (B, h, w, C)."""

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(1, 2)

    attended = F.scaled_dot_product_attention(by_head(query), by_head(key), by_head(value))  # (B, N, H * W, C')
    return attended.transpose(1, 2).reshape(query.shape)


def _attend_by_convolution(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return the same as `_attend` for one image, by 1 x 1 convolutions with a group for each head.

    One convolution, whose kernel is the keys, maps the C' channels of each head to h * w scores. Another, whose kernel
    is the values, maps the softmax of the scores back to C' channels. A few rows of queries are computed at a time.
    """
    width, channels = query.shape[2:]
    size = channels // heads
    keys = (key.reshape(-1, heads, size) * size**-0.5).transpose(0, 1).reshape(-1, size)  # (N * h * w, C')
    values = value.reshape(-1, heads, size).permute(1, 2, 0).reshape(channels, -1)  # (C, h * w)
    tokens = values.shape[1]
    attended = []
    for rows in torch.split(query, max(1, _SCORES // (width * heads * tokens)), dim=1):
        scores = torch.unflatten(pointwise(rows, keys, groups=heads), -1, (heads, tokens))
        attended.append(pointwise(scores.softmax(dim=-1).flatten(-2), values, groups=heads))
    return torch.cat(attended, dim=1)


class MixFFN(nn.Module):
    """A feed-forward network with a depthwise 3 x 3 convolution inside, which replaces positional encoding."""

    def __init__(self, channels: int, hidden_channels: int, activation: Any) -> None:
        super().__init__()
        self.dense1 = Linear(channels, hidden_channels)
        self.dwconv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
        self.activation = activation
        self.dense2 = Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of (B, H, W, C), and each pixel with its neighbours."""
        mixed: Tensor = self.dense2(self.activation(convolve(self.dwconv, self.dense1(x))))
        return mixed


class Block(nn.Module):
    """A transformer block: attention, then Mix-FFN, each after a layer norm and with a residual connection."""

    def __init__(self, channels: int, heads: int, sr_ratio: int, hidden_channels: int, activation: Any) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, sr_ratio)
        self.layer_norm_2 = nn.LayerNorm(channels)
        self.mlp = MixFFN(channels, hidden_channels, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, which overwrites its input (B, H, W, C)."""
        x.add_(self.attention(self.layer_norm_1(x)))
        return x.add_(self.mlp(self.layer_norm_2(x)))


class SegformerNetwork(nn.Module):
    """From pixel values to logits, as transformers' `SegformerForSemanticSegmentation` in eval mode.

    Runs any SegFormer for semantic segmentation: all depths, sizes, heads, ratios and numbers of labels, and any input
    size. `reshape_last_stage: false` makes no difference here; transformers can run such a model on squares only.

    Args:
        config: the content of a Hugging Face `config.json`.
        weights: float32 tensors by the Hub's names. In float32 the encoder uses them directly, without a copy.
        dtype: the dtype of the arithmetic. The classifier is always float32, because its logits are compared.
        by_convolution: compute matrix products as convolutions; see `Linear`. For CPUs on which torch has oneDNN.
        fused_attention: but compute attention by torch's `scaled_dot_product_attention`.

    Raises:
        NetworkError: `config` is invalid, or tensors are missing or do not fit it; the message names them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        by_convolution: bool = False,
        fused_attention: bool = False,
    ) -> None:
        super().__init__()
        check_weights(config, weights)
        config = completed(config)
        sizes = config["hidden_sizes"]
        function, options = ACTIVATIONS[config["hidden_act"]]
        activation = partial(getattr(F, function), **options)
        with torch.device("meta"):  # allocates no memory: the weights are assigned below
            self.embeddings = nn.ModuleList(
                PatchEmbedding(*stage)
                for stage in zip(
                    (config["num_channels"], *sizes[:-1]),
                    *(sizes, config["patch_sizes"], config["strides"]),
                    strict=True,
                )
            )
            self.blocks = nn.ModuleList(
                nn.ModuleList(Block(size, heads, sr_ratio, int(size * mlp_ratio), activation) for _ in range(depth))
                for size, heads, sr_ratio, mlp_ratio, depth in zip(
                    *(sizes, config["num_attention_heads"], config["sr_ratios"], config["mlp_ratios"]),
                    config["depths"],
                    strict=True,
                )
            )
            self.layer_norm = nn.ModuleList(nn.LayerNorm(size) for size in sizes)
        self.load_state_dict({name: weights[encoder_name(name)] for name in self.state_dict()}, assign=True)
        self.folded, classifier = fold_decoder(weights, len(sizes))

        self.dtype = dtype
        self.to(dtype)
        self.classifier = classifier  # after `to`, so that it stays in float32
        self.in_strips = by_convolution and dtype == torch.float32
        for module in self.modules():
            if isinstance(module, Linear):
                module.by_convolution = by_convolution
            elif isinstance(module, Attention):
                module.by_convolution = by_convolution and not fused_attention
        self.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **options: Any) -> SegformerNetwork:
        """Load `config.json` and `model.safetensors` of a Hugging Face directory; `options` as for the class."""
        return cls(*read_directory(directory), **options)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return float32 logits (B, H / 4, W / 4, classes) of normalised pixel values (B, 3, H, W), any float dtype."""
        x = pixel_values.to(self.dtype).permute(0, 2, 3, 1)
        maps = []
        for embedding, blocks, layer_norm in zip(self.embeddings, self.blocks, self.layer_norm, strict=True):
            x = embedding(x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x)
            x = layer_norm(x)
            maps.append(x)
        in_strips = self.in_strips and len(x) == 1 and not torch.compiler.is_compiling()
        return (decode_in_strips if in_strips else decode)(maps, self.folded, self.classifier)
