"""Sliding windows: class ids of images that are too large for one pass of the network.

The logits in memory do not grow with the image's height.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.argmax import upsampled_argmax

_PIXELS_PER_LOGIT = 4  # along each side: the network's output has a quarter of the input's size


def segment_windows(
    logits_of: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    image: npt.NDArray[np.uint8],
    window: int,
    stride: int,
    *,
    ids_of: Callable[[torch.Tensor, tuple[int, int]], npt.NDArray[np.unsignedinteger[Any]]] = upsampled_argmax,
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the class ids of an image from overlapping windows, as mmsegmentation's mode "slide" does.

    Where windows overlap, their logits are averaged. A window starts every `stride` pixels; the last row and column of
    windows end at the image's edge. An image smaller than a window is padded by repeating its edge. Only the logits of
    one row of windows are in memory: `window / 4 * width / 4 * classes` floats.

    Args:
        logits_of: maps uint8 pixel values `(1, 3, window, window)` to float32 logits `(1, window / 4, window / 4,
            classes)`.
        image: uint8 `(H, W, 3)`, RGB.
        window: the side of a window in pixels, a multiple of 4.
        stride: the distance between windows in pixels, a multiple of 4, at most `window`.
        ids_of: maps the averaged logits `(h, w, classes)` and a size `(height, width)` to class ids of that size.

    Returns:
        Class ids `(H, W)`: uint8, or uint16 if there are more than 255 classes.

    Raises:
        ValueError: `window` or `stride` is not as described.
    """
    check_window(window, stride)
    height, width = image.shape[:2]
    padded_height, padded_width = (
        max(-(-side // _PIXELS_PER_LOGIT) * _PIXELS_PER_LOGIT, window) for side in (height, width)
    )
    if (padded_height, padded_width) != (height, width):
        image = np.pad(image, ((0, padded_height - height), (0, padded_width - width), (0, 0)), mode="edge")
    pixel_values = image.transpose(2, 0, 1)[None]
    tops, lefts = _starts(padded_height, window, stride), _starts(padded_width, window, stride)
    side, logit_rows = window // _PIXELS_PER_LOGIT, padded_height // _PIXELS_PER_LOGIT

    mask: npt.NDArray[np.unsignedinteger[Any]] | None = None
    # The sum of the windows' logits and, in the last channel, the number of windows in the sum. It has one row more
    # than a window, for the row above.
    sums = torch.zeros(())
    first = done = 0  # the row of logits that `sums` starts with, and the number of finished rows of pixels
    for top, next_top in zip(tops, [*tops[1:], None], strict=True):
        rows = slice(top // _PIXELS_PER_LOGIT - first, top // _PIXELS_PER_LOGIT - first + side)
        for left in lefts:
            logits = logits_of(np.ascontiguousarray(pixel_values[..., top : top + window, left : left + window]))[0]
            if sums.ndim == 0:
                sums = logits.new_zeros(side + 1, padded_width // _PIXELS_PER_LOGIT, logits.shape[-1] + 1)
            start = left // _PIXELS_PER_LOGIT
            part = sums[rows, start : start + side]
            part[..., :-1] += logits
            part[..., -1] += 1
        # Rows of logits above the next window are complete. The lowest two pixels of the last complete row are
        # interpolated with the row below it, so they wait for the next window.
        end = logit_rows if next_top is None else next_top // _PIXELS_PER_LOGIT
        until = end * _PIXELS_PER_LOGIT - (0 if next_top is None else _PIXELS_PER_LOGIT // 2)
        complete = sums[: end - first]
        size = (len(complete) * _PIXELS_PER_LOGIT, padded_width)
        pixels = ids_of(complete[..., :-1] / complete[..., -1:], size)
        if mask is None:
            mask = np.empty((padded_height, padded_width), pixels.dtype)
        offset = first * _PIXELS_PER_LOGIT
        mask[done:until] = pixels[done - offset : until - offset]
        kept = sums[end - first - 1 :].clone()  # from the last complete row on: the next rows are interpolated with it
        sums.zero_()
        sums[: len(kept)] = kept
        first, done = end - 1, until
    assert mask is not None  # there is one window at least
    return mask[:height, :width]


def check_window(window: int, stride: int) -> None:
    """Check that `window` and `stride` are multiples of the network's stride, 4, and leave no gaps.

    Raises:
        ValueError: they do not; the message names the wrong value and what is expected.
    """
    for name, value in (("window", window), ("stride", stride)):
        if value < 1 or value % _PIXELS_PER_LOGIT:
            raise ValueError(f"{name} is a multiple of {_PIXELS_PER_LOGIT} pixels, not {value}")
    if stride > window:
        raise ValueError(f"a stride of {stride} pixels leaves gaps between windows of {window} pixels")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side of `length` pixels."""
    return [*range(0, length - window, stride), length - window]
