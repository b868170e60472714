"""Class ids at the size of the image from logits at a quarter of it, without the full-size logits.

The usual way upsamples all classes and then takes the argmax: a float array `(classes, height, width)` per
image, 840 MB for 150 classes at 1024x1366. Here each pixel's class is computed from the logits around it, on
a CPU by `argmax_numba`, on a GPU by `argmax_triton`. Each is imported when it is first needed.
"""

from __future__ import annotations

import operator
from typing import Literal, overload

import numpy as np
import torch


@overload
def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: Literal[False] = False
) -> np.ndarray: ...


@overload
def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: Literal[True]
) -> tuple[np.ndarray, np.ndarray]: ...


def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """The class with the highest logit at each pixel, after bilinear interpolation of the logits.

    The result is that of `torch.nn.functional.interpolate(..., size=size, mode="bilinear", align_corners=False)`
    followed by `argmax` over the classes, which is what transformers' `post_process_semantic_segmentation` does.
    It may differ only where two classes are equal to rounding. Of exactly equal classes the first one wins.

    Where a logit in reach of a pixel is NaN or infinite, the pixel gets one of the class ids, but which one is
    not defined, and its confidence is not either.

    Args:
        logits: float32 `(h, w, classes)` of one image, on a CPU (needs numba) or a CUDA device (needs triton).
            Copied if it is not contiguous. No gradient flows.
        size: `(height, width)` of the result, any positive numbers, also smaller than `h` and `w`.
        confidence: also return the softmax probability of the winner.

    Returns:
        Class ids `(height, width)`, uint8, or uint16 of more than 255 classes. With `confidence` a tuple of
        these and the probabilities, float32 `(height, width)`, within 1e-5 of the softmax of what torch interpolates.

    Raises:
        ValueError: the logits' shape, dtype or device, or the size, is not as described.
        TypeError: the size is not of integers.
    """
    if logits.ndim != 3 or 0 in logits.shape or logits.shape[2] > 65535:
        raise ValueError(
            "logits of one image have the shape (h, w, classes), not empty and of at most 65535 classes, "
            f"but these have {tuple(logits.shape)}"
        )
    if logits.dtype != torch.float32:
        raise ValueError(f"logits are float32, not {logits.dtype}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is (height, width), both positive, not {tuple(size)}")
    logits = logits.detach().contiguous()
    size = operator.index(size[0]), operator.index(size[1])
    if logits.device.type == "cpu":
        from .argmax_numba import upsampled_argmax_numba

        ids, probability = upsampled_argmax_numba(logits.numpy(), size, confidence)
    elif logits.device.type == "cuda":
        from .argmax_triton import upsampled_argmax_triton

        device_ids, device_probability = upsampled_argmax_triton(logits, size, confidence)
        ids = device_ids.cpu().numpy()
        probability = None if device_probability is None else device_probability.cpu().numpy()
    else:
        raise ValueError(f"logits are on a CPU or a CUDA device, not on {logits.device}")
    return ids if probability is None else (ids, probability)
