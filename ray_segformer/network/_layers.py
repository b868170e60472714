"""Operations on feature maps in NHWC layout, (B, H, W, C), by the fastest kernels that torch has for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A linear layer on the last axis, optionally computed as the equivalent 1 x 1 convolution.

    On CPUs torch passes convolutions to oneDNN and matrix products to MKL. MKL leaves half of an AMD processor unused.
    """

    by_convolution = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (B, H, W, C)."""
        return pointwise(x, self.weight, self.bias) if self.by_convolution else F.linear(x, self.weight, self.bias)


def pointwise(x: Tensor, matrix: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """Return the 1 x 1 convolution of (B, H, W, C) with a matrix (outputs, C / groups), computed by oneDNN."""
    image, kernel = x.permute(0, 3, 1, 2), matrix[:, :, None, None]
    if torch.compiler.is_compiling():
        image = F.conv2d(image, kernel, bias, groups=groups)
    else:  # F.conv2d would compute it as a matrix product where there is only one thread
        image = torch.mkldnn_convolution(image, kernel, bias, [0, 0], [1, 1], [1, 1], groups)
    return image.permute(0, 2, 3, 1)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution layer to (B, H, W, C). For torch the same memory is NCHW in channels-last format."""
    image: Tensor = conv(x.permute(0, 3, 1, 2))
    return image.permute(0, 2, 3, 1)


def upsample(x: Tensor, size: Any) -> Tensor:
    """Return (B, H, W, C) interpolated bilinearly to the height and width in `size`."""
    image = F.interpolate(x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return image.permute(0, 2, 3, 1)
