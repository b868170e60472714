"""`upsampled_argmax` on a GPU, by a Triton kernel.

Not yet run on a GPU. Tests run it in Triton's interpreter, with correct results, and compile it for a GPU.

A program of the kernel takes `_PIXELS` pixels of one row. It interpolates one block of classes after another from the
four logits around each pixel, and keeps the highest value so far. No array `(classes, height, width)` is ever in
memory, and only the results are copied to the host.
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
    """Compute `upsampled_argmax` of contiguous logits on a GPU, whose shape and dtype have been checked.

    With `TRITON_INTERPRET=1` in the environment the logits may be on a CPU.

    Returns:
        The class ids, and the probabilities or None, on the device of the logits.
    """
    (h, w, classes), (height, width) = logits.shape, size
    ids = torch.empty(size, dtype=torch.uint8 if classes <= 255 else torch.uint16, device=logits.device)
    probability = torch.empty(size, dtype=torch.float32, device=logits.device) if confidence else None
    grid = (height, triton.cdiv(width, _PIXELS))
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _label[grid](
            logits,
            ids,
            ids if probability is None else probability,
            *(h, w, classes, width),
            float(np.float32(h) / np.float32(height)),  # in float32, as torch divides
            float(np.float32(w) / np.float32(width)),
            CONFIDENCE=confidence,
            PIXELS=_PIXELS,
            CLASSES=_CLASSES,
            enable_fp_fusion=True,
        )
    return ids, probability


@triton.jit  # type: ignore[untyped-decorator]
def _neighbours(pixel: tl.tensor, scale: tl.tensor, logits: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the indices of the two of `logits` values that a pixel lies between, and the weight of the second."""
    position = tl.maximum((pixel.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(position.to(tl.int32), logits - 1)
    return before, tl.minimum(before + 1, logits - 1), position - before.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _label(
    logits: tl.tensor,
    ids: tl.tensor,
    probability: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    classes: tl.tensor,
    width: tl.tensor,
    y_scale: tl.tensor,
    x_scale: tl.tensor,
    CONFIDENCE: tl.constexpr,  # noqa: N803
    PIXELS: tl.constexpr,  # noqa: N803
    CLASSES: tl.constexpr,  # noqa: N803
) -> None:
    """Write the class ids, and with CONFIDENCE the probabilities, of PIXELS pixels of one row."""
    y = tl.program_id(0)
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    inside = x < width
    y0, y1, v = _neighbours(y, y_scale, h)
    x0, x1, t = _neighbours(x, x_scale, w)
    # Where the logits of the four corners start. int64, because there may be more than 2^31 logits.
    a = (y0.to(tl.int64) * w + x0) * classes
    b = (y0.to(tl.int64) * w + x1) * classes
    c = (y1.to(tl.int64) * w + x0) * classes
    d = (y1.to(tl.int64) * w + x1) * classes

    highest = tl.full((PIXELS,), float("-inf"), tl.float32)
    winner = tl.zeros((PIXELS,), tl.int32)
    total = tl.zeros((PIXELS,), tl.float64)  # sum of exp(logit - highest); float64 for many small summands
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
        values = tl.where((k < classes)[None, :] & (values == values), values, float("-inf"))  # NaN != NaN
        block_highest, block_winner = tl.max(values, axis=1, return_indices=True)  # the first of equal values
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
