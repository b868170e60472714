"""Class ids at the image's size, computed from logits at a quarter of it.

The usual way is to upsample the logits of all classes and then take the argmax. It needs a float array
`(classes, height, width)` for each image: 840 MB for 150 classes at 1024x1366. Here each pixel's class is computed from
the logits around it, and the full-size logits never exist. `_argmax_numba` does it on a CPU and `_argmax_triton` on a
GPU. Each is imported when it is first needed.
"""

from __future__ import annotations

import operator
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network._interpolation import Axis


@overload
def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: Literal[False] = False
) -> npt.NDArray[np.unsignedinteger[Any]]: ...


@overload
def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: Literal[True]
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.float32]]: ...


def upsampled_argmax(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: bool = False
) -> npt.NDArray[np.unsignedinteger[Any]] | tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.float32]]:
    """Return the class with the highest logit at each pixel, after bilinear interpolation of the logits.

    The result is that of `torch.nn.functional.interpolate(..., size=size, mode="bilinear", align_corners=False)`
    followed by `argmax` over the classes, which is what transformers' `post_process_semantic_segmentation` does.
    It may differ only where two classes are equal up to rounding. If several classes are exactly equal, the first wins.

    If a logit that a pixel is interpolated from is NaN or infinite, the pixel gets some valid class id, but it is
    undefined which one. The pixel's confidence is undefined too.

    Args:
        logits: float32 `(h, w, classes)` of one image, on a CPU (needs numba) or a CUDA device (needs triton).
            Copied if it is not contiguous. Gradients are not computed.
        size: `(height, width)` of the result: any positive integers, even less than `h` and `w`.
        confidence: also return the softmax probability of the winning class.

    Returns:
        Class ids `(height, width)`: uint8, or uint16 if there are more than 255 classes. With `confidence`, a tuple of
        the ids and the probabilities, float32 `(height, width)`, within 1e-5 of the softmax of torch's interpolation.

    Raises:
        ValueError: the shape, dtype or device of the logits, or the size, is not as described.
        TypeError: the size does not consist of integers.
    """
    if logits.ndim != 3 or 0 in logits.shape or logits.shape[2] > 65535:
        raise ValueError(
            "logits of one image have the shape (h, w, classes), are not empty and have at most 65535 classes; "
            f"these have the shape {tuple(logits.shape)}"
        )
    if logits.dtype != torch.float32:
        raise ValueError(f"logits are float32, not {logits.dtype}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is (height, width), both positive, not {tuple(size)}")
    logits = logits.detach().contiguous()
    size = operator.index(size[0]), operator.index(size[1])
    if logits.device.type == "cpu":
        from ray_segformer.network._argmax_numba import argmax_between_numba

        down, across = Axis.of(logits.shape[0], size[0]), Axis.of(logits.shape[1], size[1])
        ids, probability = argmax_between_numba(logits.numpy(), down, across, confidence)
    elif logits.device.type == "cuda":
        from ray_segformer.network._argmax_triton import upsampled_argmax_triton

        device_ids, device_probability = upsampled_argmax_triton(logits, size, confidence)
        ids = device_ids.cpu().numpy()
        probability = None if device_probability is None else device_probability.cpu().numpy()
    else:
        raise ValueError(f"logits are on a CPU or a CUDA device, not on {logits.device}")
    return ids if probability is None else (ids, probability)


def argmax_between(
    logits: torch.Tensor, down: Axis, across: Axis, *, confidence: bool = False
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.float32] | None]:
    """Return the class with the highest logit at each pixel that lies between logits, in one thread.

    Tested on a CPU. It has not been run on a GPU yet.

    Args:
        logits: float32 `(h, w, classes)`. On other devices than a CPU, `(height, width, classes)`: those of each pixel.
        down, across: where each row and each column of pixels lies between the logits.
        confidence: also return the softmax probability of the winning class.

    Returns:
        Class ids `(height, width)`: uint8, or uint16 above 255 classes; and the probabilities, float32, or None.
    """
    if logits.device.type == "cpu":
        from ray_segformer.network._argmax_numba import argmax_between_numba

        return argmax_between_numba(logits.numpy(), down, across, confidence, threads=1)
    ids: npt.NDArray[np.unsignedinteger[Any]] = (
        logits.argmax(-1).cpu().numpy().astype(np.uint8 if logits.shape[-1] <= 255 else np.uint16)
    )
    return ids, logits.softmax(-1).amax(-1).cpu().numpy() if confidence else None
