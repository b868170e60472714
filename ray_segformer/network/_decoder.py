"""The decoder's layers, folded into one matrix for each stage.

SegFormer's decoder projects the feature map x_i of every stage i to D channels, upsamples all of them to the size of
the first, fuses them by a 1 x 1 convolution and a batch norm, and classifies each pixel:

    logits = classifier(relu(batch_norm(fuse(concat(upsample(project_i(x_i)) for every stage i)))))

Upsampling mixes pixels and leaves the channels alone. Project, fuse and batch norm mix channels and leave the pixels
alone. So they commute with upsampling. Fusing a concatenation is the same as a sum over stages, in which each stage has
its own slice of the fuse matrix, fuse_i. This gives

    logits = classifier(relu(sum(upsample(folded_i(x_i)) for every stage i)))
    folded_i(x) = batch_norm(fuse_i(project_i(x)))

Project, fuse and batch norm are affine, so folded_i is one matrix and (once, in the sum) one bias. It is applied at the
stage's own size, before upsampling. For B0 at 512 x 512 this halves the arithmetic of the whole network, and the result
is equal to rounding.

The sum has D channels at the size of the first map, so it is the largest tensor of the network: 16 MiB for B0 at
512 x 512, and 384 MiB for B5 at 1024 x 2048. `decode_in_strips` computes it, and from it the logits, a few rows at a
time, so that these rows stay in the CPU's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_segformer.network._bands import WORTH_THREADS, in_bands
from ray_segformer.network._interpolation import Axis, Columns, add_upsampled
from ray_segformer.network._layers import Linear, upsample

_STRIP = 2**20  # numbers of the sum that are computed at once: 4 MiB
_BATCH_NORM_EPS = 1e-5  # torch's default, which transformers does not change


def fold_decoder(weights: Mapping[str, Tensor], stages: int) -> tuple[nn.ModuleList, Linear]:
    """Return the folded layer of each stage, and the classifier.

    Args:
        weights: float32 tensors by the Hub's names.
        stages: the number of stages.

    Returns:
        A linear layer from C to D channels for each stage, of which only the first has a bias: the bias of the whole
        sum. And the linear layer from D channels to classes.
    """

    def tensor(name: str) -> Tensor:
        return weights[f"decode_head.{name}"]

    scale = tensor("batch_norm.weight") / torch.sqrt(tensor("batch_norm.running_var") + _BATCH_NORM_EPS)
    bias = tensor("batch_norm.bias") - tensor("batch_norm.running_mean") * scale
    # Transformers concatenates the last stage first.
    slices = tensor("linear_fuse.weight")[:, :, 0, 0].chunk(stages, dim=1)[::-1]
    matrices = []
    for stage, fuse in enumerate(slices):
        fuse = scale[:, None] * fuse
        matrices.append(fuse @ tensor(f"linear_c.{stage}.proj.weight"))
        bias = bias + fuse @ tensor(f"linear_c.{stage}.proj.bias")
    folded = nn.ModuleList(_linear(matrix, bias if stage == 0 else None) for stage, matrix in enumerate(matrices))
    return folded, _linear(tensor("classifier.weight")[:, :, 0, 0], tensor("classifier.bias"))


def decode(maps: Sequence[Tensor], folded: nn.ModuleList, classifier: Linear) -> Tensor:
    """Return the logits of the stages' feature maps.

    Args:
        maps: (B, h, w, C) of each stage, in the dtype of `folded`. The first is the largest: (B, H, W, C).
        folded, classifier: those of `fold_decoder`. The classifier is float32.

    Returns:
        float32 (B, H, W, classes).
    """
    fused = folded[0](maps[0])
    for layer, x in zip(folded[1:], maps[1:], strict=True):
        fused.add_(upsample(layer(x), fused.shape[1:3]))
    logits: Tensor = classifier(F.relu_(fused).float())
    return logits


def decode_in_strips(maps: Sequence[Tensor], folded: nn.ModuleList, classifier: Linear) -> Tensor:
    """Do what `decode` does, for one image in float32 on a CPU, a few rows at a time."""
    first = maps[0]
    _, height, width, _ = first.shape
    smaller = [layer(x).contiguous() for layer, x in zip(folded[1:], maps[1:], strict=True)]
    axes = [(Axis.of(x.shape[1], height), _columns(x.shape[2], width)) for x in smaller]
    logits = first.new_empty(1, height, width, classifier.out_features)
    rows = max(1, _STRIP // (width * classifier.in_features))
    for top in range(0, height, rows):
        fused: Tensor = folded[0](first[:, top : top + rows]).contiguous()
        threads = torch.get_num_threads() if fused.numel() >= WORTH_THREADS else 1
        in_bands(functools.partial(_add_rows, smaller, axes, fused[0], top), fused.shape[1], threads)
        logits[:, top : top + rows] = classifier(F.relu_(fused))
    return logits


def _add_rows(
    maps: list[Tensor], axes: list[tuple[Axis, Columns]], sums: Tensor, top: int, start: int, end: int
) -> None:
    """Add the upsampled maps to the rows `[start, end)` of a strip `(rows, W, D)`, which begins at the row `top`."""
    rows = slice(top + start, top + end)
    for x, (down, across) in zip(maps, axes, strict=True):
        part = Axis(down.before[rows], down.weights[rows])
        add_upsampled(x, part, np.ones(end - start, np.float32), across, sums[start:end])


@functools.lru_cache(64)
def _columns(small: int, width: int) -> Columns:
    """Return the columns of a map `small` columns wide that is upsampled to `width`."""
    return Columns.of(np.arange(width, dtype=np.float64), np.ones(width, np.float32), [0], width, small)


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Return a layer with these tensors, which are not copied."""
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
    return layer
