"""Sliding windows: class ids of images too large for one pass, in memory that does not grow with their height."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ray_segformer.network.argmax import upsampled_argmax

_STRIDE = 4  # of the network: pixels to a logit


def segment_windows(
    logits_of: Callable[[np.ndarray], torch.Tensor], image: np.ndarray, window: int, stride: int
) -> np.ndarray:
    """Class ids of an image from the mean of the logits of overlapping windows, as mmsegmentation's mode "slide".

    Windows start at every `stride` pixels, the last ones at the image's end; a smaller image is continued by its edge.
    Only the logits of one row of windows are in memory: `window / 4 * width / 4 * classes` floats.

    Args:
        logits_of: maps uint8 pixel values `(1, 3, window, window)` to float32 logits `(1, window / 4, window / 4,
            classes)`.
        image: uint8 `(H, W, 3)`, RGB.
        window, stride: pixels, multiples of 4; `stride` at most `window`.

    Returns:
        `(H, W)`, uint8, or uint16 of more than 255 classes.

    Raises:
        ValueError: `window` or `stride` is not as described.
    """
    check_window(window, stride)
    height, width = image.shape[:2]
    padded_height, padded_width = (max(-(-side // _STRIDE) * _STRIDE, window) for side in (height, width))
    if (padded_height, padded_width) != (height, width):
        image = np.pad(image, ((0, padded_height - height), (0, padded_width - width), (0, 0)), mode="edge")
    pixel_values = image.transpose(2, 0, 1)[None]
    tops, lefts = _starts(padded_height, window, stride), _starts(padded_width, window, stride)
    side, total = window // _STRIDE, padded_height // _STRIDE

    mask = np.zeros(0)
    # Logits and how many windows they are the sum of, in the last channel; one row more than a window has.
    sums = torch.zeros(())
    first = emitted = 0  # the row of logits that `sums` begins with, and how many rows of pixels are done
    for top, following in zip(tops, [*tops[1:], None], strict=True):
        rows = slice(top // _STRIDE - first, top // _STRIDE - first + side)
        for left in lefts:
            logits = logits_of(np.ascontiguousarray(pixel_values[..., top : top + window, left : left + window]))[0]
            if sums.ndim == 0:
                sums = logits.new_zeros(side + 1, padded_width // _STRIDE, logits.shape[-1] + 1)
            part = sums[rows, left // _STRIDE : left // _STRIDE + side]
            part[..., :-1] += logits
            part[..., -1] += 1
        # Rows above the next window are complete; of their pixels, the lowest two also depend on the row below.
        end = total if following is None else following // _STRIDE
        until = end * _STRIDE if following is None else end * _STRIDE - _STRIDE // 2
        complete = sums[: end - first]
        pixels = upsampled_argmax(complete[..., :-1] / complete[..., -1:], (len(complete) * _STRIDE, padded_width))
        mask = mask if mask.size else np.empty((padded_height, padded_width), pixels.dtype)
        mask[emitted:until] = pixels[emitted - first * _STRIDE : until - first * _STRIDE]
        kept = sums[end - first - 1 :].clone()  # its first row is a neighbour of the next
        sums.zero_()
        sums[: len(kept)] = kept
        first, emitted = end - 1, until
    return mask[:height, :width]


def check_window(window: int, stride: int) -> None:
    """Refuse windows that the network's stride does not divide, or that leave gaps.

    Raises:
        ValueError: which, and what is expected.
    """
    for name, value in (("window", window), ("stride", stride)):
        if value < 1 or value % _STRIDE:
            raise ValueError(f"{name} is a multiple of {_STRIDE} pixels, not {value}")
    if stride > window:
        raise ValueError(f"a stride of {stride} leaves gaps between windows of {window} pixels")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side of `length` pixels."""
    return [*range(0, length - window, stride), length - window]
