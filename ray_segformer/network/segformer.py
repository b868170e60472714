"""The SegFormer network (Xie et al., 2021, https://arxiv.org/abs/2105.15203), for inference.

Four stages of transformer blocks make feature maps of 1/4, 1/8, 1/16 and 1/32 of the image's size. A decoder projects
each to D channels, upsamples them to 1/4, fuses them and classifies:

    logits = classifier(relu(batch_norm(fuse(concat(upsample(project_i(x_i)) for every stage i)))))

Upsampling mixes pixels and leaves channels alone; project, fuse and batch norm mix channels and leave pixels alone, so
they commute. Fusing a concatenation is a sum over its slices, and all three are affine. With fuse_i the slice of fuse
for stage i,

    logits = classifier(relu(sum(upsample(folded_i(x_i)) for every stage i)))
    folded_i(x) = batch_norm(fuse_i(project_i(x)))

and folded_i is one matrix, applied at the stage's own size. That is half of B0's arithmetic at 512 x 512, and equal to
rounding.

Feature maps are NHWC throughout, so that attention's tokens (B, H * W, C) and a convolution's image (B, H, W, C) are
the same memory. In comments, B is the batch, H and W the size of the map, C its channels, N heads of C' channels, D the
decoder's channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What transformers' SegformerConfig assumes of a config.json that does not say.
_DEFAULTS = {
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
_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}
# This file's parts of names, and the Hub's.
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
_BATCH_NORM_EPS = 1e-5  # torch's default, which transformers leaves, as it does with layer norm's
_SCORES = 2**21  # attention scores at once, by convolution: 8 MB, which stay in the cache


class NetworkError(ValueError):
    """A configuration that describes no SegFormer, or weights that do not fit it."""


class Linear(nn.Linear):
    """A linear layer on the last axis, computed as the 1 x 1 convolution that it is where that is faster.

    On CPUs torch hands convolutions to oneDNN and matrix products to MKL, which leaves half of an AMD processor unused.
    """

    by_convolution = False

    def forward(self, x: Tensor) -> Tensor:
        return _conv2d(x, self.weight, self.bias) if self.by_convolution else F.linear(x, self.weight, self.bias)


class PatchEmbedding(nn.Module):
    """Overlapping patches of an image, or of the stage before, as tokens: (B, H, W, C) to (B, H / s, W / s, C2)."""

    def __init__(self, channels: int, out_channels: int, patch_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, out_channels, patch_size, stride, patch_size // 2)
        self.layer_norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(_nhwc(self.proj, x))


class Attention(nn.Module):
    """Self-attention whose keys and values are reduced in space, by a factor of `sr_ratio` on each side."""

    by_convolution = False

    def __init__(self, channels: int, heads: int, sr_ratio: int):
        super().__init__()
        inner = channels // heads * heads  # C, or a little less where the heads do not share it evenly
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
        reduced = self.layer_norm(_nhwc(self.sr, x)) if self.reduces else x  # (B, h, w, C)
        by_convolution = self.by_convolution and len(x) == 1 and not torch.compiler.is_compiling()
        attend = _attend_by_convolution if by_convolution else _attend
        return self.out(attend(self.query(x), self.key(reduced), self.value(reduced), self.heads))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(query key^T / sqrt(C')) value by head: queries (B, H, W, C), keys and values (B, h, w, C)."""

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(1, 2)

    attended = F.scaled_dot_product_attention(by_head(query), by_head(key), by_head(value))  # (B, N, H * W, C')
    return attended.transpose(1, 2).reshape(query.shape)


def _attend_by_convolution(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """The same for one image: its keys are a 1 x 1 convolution from C' channels to scores, a group for each head, and
    its values one from scores to C'. Of the queries, a few rows at a time."""
    width, channels = query.shape[2:]
    size = channels // heads
    keys = (key.reshape(-1, heads, size) * size**-0.5).transpose(0, 1).reshape(-1, size)  # (N * h * w, C')
    values = value.reshape(-1, heads, size).permute(1, 2, 0).reshape(channels, -1)  # (C, h * w)
    tokens = values.shape[1]
    attended = []
    for rows in query.split(max(1, _SCORES // (width * heads * tokens)), dim=1):
        scores = _conv2d(rows, keys, groups=heads).unflatten(-1, (heads, tokens))
        attended.append(_conv2d(scores.softmax(dim=-1).flatten(-2), values, groups=heads))
    return torch.cat(attended, dim=1)


class MixFFN(nn.Module):
    """A feed-forward network with a depthwise 3 x 3 convolution inside, which stands for positional encoding."""

    def __init__(self, channels: int, hidden_channels: int, activation: Any):
        super().__init__()
        self.dense1 = Linear(channels, hidden_channels)
        self.dwconv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
        self.activation = activation
        self.dense2 = Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense2(self.activation(_nhwc(self.dwconv, self.dense1(x))))


class Block(nn.Module):
    """Attention and Mix-FFN, each behind a layer norm and beside a residual. Writes into its input, (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, sr_ratio: int, hidden_channels: int, activation: Any):
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, sr_ratio)
        self.layer_norm_2 = nn.LayerNorm(channels)
        self.mlp = MixFFN(channels, hidden_channels, activation)

    def forward(self, x: Tensor) -> Tensor:
        x.add_(self.attention(self.layer_norm_1(x)))
        return x.add_(self.mlp(self.layer_norm_2(x)))


class SegformerNetwork(nn.Module):
    """From pixel values to logits, as transformers' `SegformerForSemanticSegmentation` in eval mode.

    Any SegFormer for semantic segmentation fits: all depths, sizes, heads, ratios and numbers of labels, and any input
    size. (`reshape_last_stage: false` makes no difference here; transformers runs such a model on squares only.)

    Args:
        config: the content of a Hugging Face `config.json`.
        weights: float32 tensors by the Hub's names. In float32 the encoder's are used as they are, without a copy.
        dtype: of the arithmetic. The classifier stays in float32: its logits are compared with each other.
        by_convolution: compute matrix products by convolutions; see `Linear`. For CPUs, where torch has oneDNN.

    Raises:
        NetworkError: `config` makes no sense, or tensors are missing or do not fit it; the message names them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        by_convolution: bool = False,
    ):
        super().__init__()
        config = {**_DEFAULTS, **config}
        sizes, depths = config["hidden_sizes"], config["depths"]
        try:
            if config["hidden_act"] not in _ACTIVATIONS:
                raise ValueError(f"hidden_act is one of {sorted(_ACTIVATIONS)}, not {config['hidden_act']!r}")
            if max(depths) > len(weights):  # a billion blocks would be made before the first one is missed
                raise ValueError(f"depths are {depths}, but there are only {len(weights)} tensors")
            with torch.device("meta"):  # no memory: the weights come in below
                self.embeddings = nn.ModuleList(
                    PatchEmbedding(*stage)
                    for stage in zip(
                        (config["num_channels"], *sizes[:-1]),
                        *(sizes, config["patch_sizes"], config["strides"]),
                        strict=True,
                    )
                )
                activation = _ACTIVATIONS[config["hidden_act"]]
                self.blocks = nn.ModuleList(
                    nn.ModuleList(Block(size, heads, sr_ratio, int(size * mlp_ratio), activation) for _ in range(depth))
                    for size, heads, sr_ratio, mlp_ratio, depth in zip(
                        *(sizes, config["num_attention_heads"], config["sr_ratios"], config["mlp_ratios"], depths),
                        strict=True,
                    )
                )
                self.layer_norm = nn.ModuleList(nn.LayerNorm(size) for size in sizes)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise NetworkError(f"config.json describes no SegFormer that can be built: {error}") from error
        hub_names = {name: _hub_name(name) for name in self.state_dict()}
        expected = {hub_names[name]: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        _check(weights, {**expected, **_decoder_shapes(config)})
        self.load_state_dict({name: weights[hub_name] for name, hub_name in hub_names.items()}, assign=True)
        self.folded, classifier = _fold(weights, len(sizes))

        self.dtype = dtype
        self.to(dtype)
        self.classifier = classifier
        for module in self.modules():
            if isinstance(module, (Linear, Attention)):
                module.by_convolution = by_convolution
        self.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, **options: Any) -> SegformerNetwork:
        """From `config.json` and `model.safetensors` in a Hugging Face directory; `options` as for the class."""
        from safetensors.torch import load_file

        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        weights = {
            name: tensor.float() for name, tensor in load_file(os.path.join(directory, "model.safetensors")).items()
        }
        return cls(config, weights, **options)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Float32 logits (B, H / 4, W / 4, classes) of normalised pixel values (B, 3, H, W), any float type."""
        x = pixel_values.to(self.dtype).permute(0, 2, 3, 1)
        mixed: Any = None  # (B, H / 4, W / 4, D)
        stages: Any = zip(self.embeddings, self.blocks, self.layer_norm, self.folded, strict=True)
        for embedding, blocks, layer_norm, folded in stages:
            x = embedding(x)
            for block in blocks:
                x = block(x)
            x = layer_norm(x)
            mixed = folded(x) if mixed is None else mixed.add_(_upsample(folded(x), mixed.shape[1:3]))
        return self.classifier(F.relu_(mixed).float())


def _nhwc(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of (B, H, W, C): to torch the same memory is an NCHW tensor in channels-last format."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _conv2d(x: Tensor, matrix: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """A 1 x 1 convolution of (B, H, W, C) by a matrix (outputs, C / groups), by oneDNN."""
    image, kernel = x.permute(0, 3, 1, 2), matrix[:, :, None, None]
    if torch.compiler.is_compiling():
        image = F.conv2d(image, kernel, bias, groups=groups)
    else:  # conv2d would compute it as a matrix product where there is one thread
        image = torch.mkldnn_convolution(image, kernel, bias, [0, 0], [1, 1], [1, 1], groups)
    return image.permute(0, 2, 3, 1)


def _upsample(x: Tensor, size: Any) -> Tensor:
    x = F.interpolate(x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


def _hub_name(name: str) -> str:
    for ours, theirs in _HUB_NAMES.items():
        name = name.replace(ours, theirs)
    return f"segformer.encoder.{name}"


def _decoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The decoder's tensors by the Hub's names. The number of classes is what the configuration lists, else 2."""
    size, stages = config["decoder_hidden_size"], config["hidden_sizes"]
    labels = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
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


def _check(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{name} is missing" for name in sorted(shapes) if name not in weights] + [
        f"{name} has the shape {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in sorted(shapes.items())
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise NetworkError(f"the weights do not fit config.json: {shown}")


def _fold(weights: Mapping[str, Tensor], stages: int) -> tuple[nn.ModuleList, Linear]:
    """The decoder as a linear layer for each stage, of which the first carries the bias, and the classifier."""

    def tensor(name: str) -> Tensor:
        return weights[f"decode_head.{name}"]

    scale = tensor("batch_norm.weight") / torch.sqrt(tensor("batch_norm.running_var") + _BATCH_NORM_EPS)
    bias = tensor("batch_norm.bias") - tensor("batch_norm.running_mean") * scale
    slices = tensor("linear_fuse.weight")[:, :, 0, 0].chunk(stages, dim=1)[::-1]  # concatenated last stage first
    matrices = []
    for stage, fuse in enumerate(slices):
        fuse = scale[:, None] * fuse
        matrices.append(fuse @ tensor(f"linear_c.{stage}.proj.weight"))
        bias = bias + fuse @ tensor(f"linear_c.{stage}.proj.bias")
    layers = nn.ModuleList(_linear(matrix, bias if stage == 0 else None) for stage, matrix in enumerate(matrices))
    return layers, _linear(tensor("classifier.weight")[:, :, 0, 0], tensor("classifier.bias"))


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
    return layer
