"""`upsampled_argmax` on a GPU, by a Triton kernel.

Untested on a GPU: it has run in Triton's interpreter only, where the results are right (tests/network/test_argmax.py).

A program takes some pixels of one row, and block after block of classes from their four corners, of which it keeps
the highest. Nothing of the size `(classes, height, width)` is in memory, and only the results go to the host.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

_PIXELS = 32
_CLASSES = 32


def upsampled_argmax_triton(
    logits: torch.Tensor, size: tuple[int, int], confidence: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See `upsampled_argmax`; the logits are contiguous, on a GPU, and have been checked.

    With `TRITON_INTERPRET=1` in the environment they may be on a CPU.

    Returns:
        The class ids, and the probabilities or None, on the logits' device.
    """
    (h, w, classes), (height, width) = logits.shape, size
    ids = torch.empty(size, dtype=torch.uint8 if classes <= 255 else torch.uint16, device=logits.device)
    probability = torch.empty(size, dtype=torch.float32, device=logits.device) if confidence else None
    grid = (height, triton.cdiv(width, _PIXELS))
    with torch.cuda.device_of(logits):
        _label[grid](
            logits,
            ids,
            ids if probability is None else probability,
            *(h, w, classes, width),
            float(np.float32(h) / np.float32(height)),  # divided as torch does
            float(np.float32(w) / np.float32(width)),
            CONFIDENCE=confidence,
            PIXELS=_PIXELS,
            CLASSES=_CLASSES,
            enable_fp_fusion=True,
        )
    return ids, probability


@triton.jit
def _source(pixel, scale, low):
    """The neighbours of a pixel along one axis of `low` logits, and the weight of the second."""
    position = tl.maximum((pixel.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(position.to(tl.int32), low - 1)
    return before, tl.minimum(before + 1, low - 1), position - before.to(tl.float32)


@triton.jit
def _label(
    logits,
    ids,
    probability,
    h,
    w,
    classes,
    width,
    y_scale,
    x_scale,
    CONFIDENCE: tl.constexpr,  # noqa: N803
    PIXELS: tl.constexpr,  # noqa: N803
    CLASSES: tl.constexpr,  # noqa: N803
):
    y = tl.program_id(0)
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    inside = x < width
    y0, y1, v = _source(y, y_scale, h)
    x0, x1, t = _source(x, x_scale, w)
    # The corners' first logits, int64: there may be more than 2^31 logits.
    a = (y0.to(tl.int64) * w + x0) * classes
    b = (y0.to(tl.int64) * w + x1) * classes
    c = (y1.to(tl.int64) * w + x0) * classes
    d = (y1.to(tl.int64) * w + x1) * classes

    highest = tl.full((PIXELS,), float("-inf"), tl.float32)
    winner = tl.zeros((PIXELS,), tl.int32)
    total = tl.zeros((PIXELS,), tl.float64)  # of exp(logit - highest); float64, as there may be many small classes
    for start in range(0, classes, CLASSES):
        k = start + tl.arange(0, CLASSES)
        mask = inside[:, None] & (k < classes)[None, :]
        left = (1 - v) * tl.load(logits + a[:, None] + k[None, :], mask, 0.0) + v * tl.load(
            logits + c[:, None] + k[None, :], mask, 0.0
        )
        right = (1 - v) * tl.load(logits + b[:, None] + k[None, :], mask, 0.0) + v * tl.load(
            logits + d[:, None] + k[None, :], mask, 0.0
        )
        values = (1 - t)[:, None] * left + t[:, None] * right
        values = tl.where((k < classes)[None, :] & (values == values), values, float("-inf"))  # no NaNs either
        block_highest, block_winner = tl.max(values, axis=1, return_indices=True)  # the first of equal ones
        better = block_highest > highest
        winner = tl.where(better, start + block_winner, winner)
        new = tl.where(better, block_highest, highest)
        if CONFIDENCE:
            total = total * tl.exp(highest - new) + tl.sum(tl.exp(values - new[:, None]), axis=1)
        highest = new

    at = y.to(tl.int64) * width + x
    tl.store(ids + at, winner.to(ids.dtype.element_ty), inside)
    if CONFIDENCE:
        tl.store(probability + at, (1 / total).to(tl.float32), inside)
