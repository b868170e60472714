"""The probability of the foreground at the image's size, from the one logit of a model of one class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F


def upsampled_sigmoid(logits: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the sigmoid of a model's only logit at each pixel, after bilinear interpolation.

    Args:
        logits: float32 `(h, w, 1)` of one image, on any device.
        size: `(height, width)` of the result.

    Returns:
        float32 `(height, width)`, in [0, 1].
    """
    with torch.inference_mode():
        resized = F.interpolate(logits.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)
        probability: npt.NDArray[np.float32] = resized[0, 0].sigmoid().cpu().numpy()
    return probability
