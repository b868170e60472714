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
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ray_segformer.network._layers import Linear

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


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Return a layer with these tensors, which are not copied."""
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
    return layer
