"""Bilinear interpolation of logits: where each pixel lies between them, and the sums of upsampled logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ray_segformer.network.bands import WORTH_THREADS, in_bands

if TYPE_CHECKING:
    from ray_segformer.network.argmax_kernels import Indices, Weights


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where each pixel along an axis lies between two logits.

    Attributes:
        before: int32 `(pixels,)`, the index of the logit before each pixel. The one after it is the next one, or the
            same one at the end.
        weights: float32 `(pixels,)`, the weight of the logit after.
        shares: float32 `(pixels,)`, a factor of the interpolated value.
    """

    before: Indices
    weights: Weights
    shares: Weights

    @staticmethod
    @functools.lru_cache(64)
    def of(logits: int, pixels: int) -> Axis:
        """Return the axis of `pixels` pixels over `logits` logits, rounded as torch does without `align_corners`."""
        return Axis(*neighbours(logits, pixels), np.ones(pixels, np.float32))

    def part(self, first: int, last: int, before: int = 0) -> Axis:
        """Return the pixels `[first, last)`, where the logits start with the one that has the index `before`."""
        return Axis(self.before[first:last] - np.int32(before), self.weights[first:last], self.shares[first:last])

    def times(self, shares: Weights) -> Axis:
        """Return the axis with other factors."""
        return dataclasses.replace(self, shares=shares)


def neighbours(logits: int, pixels: int) -> tuple[Indices, Weights]:
    """Return `before` and `weights` of an `Axis`."""
    scale = np.float32(logits) / np.float32(pixels)
    half = np.float32(0.5)
    position = np.maximum((np.arange(pixels, dtype=np.float32) + half) * scale - half, np.float32(0))
    before = np.minimum(position.astype(np.int32), logits - 1)
    return before, (position - before).astype(np.float32)


def add_upsampled(logits: torch.Tensor, lefts: Sequence[int], down: Axis, across: Axis, sums: torch.Tensor) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to rows of pixels.

    Tested on a CPU. The way for other devices is tested on a CPU too, but has not been run on a GPU yet.

    Args:
        logits: float32 `(windows, h, w, classes)`.
        lefts: the column of pixels where each window starts.
        down: for each row of `sums`, where it lies between the rows of logits.
        across: the same for each column of a window. Its `shares` are those of the columns of `sums`, however.
        sums: float32 `(rows, width, classes)`, contiguous.
    """
    if logits.device.type == "cpu":
        _add_on_cpu(logits, lefts, down, across, sums)
    else:
        add_by_torch(logits, lefts, down, across, sums)


def _add_on_cpu(logits: torch.Tensor, lefts: Sequence[int], down: Axis, across: Axis, sums: torch.Tensor) -> None:
    from ray_segformer.network.windows_kernels import add_windows

    values, places, target = logits.contiguous().numpy(), np.array(lefts, np.int32), sums.numpy()

    def add(first: int, last: int) -> None:
        part = down.part(first, last)
        add_windows(
            *(values, places, part.before, part.weights, part.shares),
            *(across.before, across.weights, across.shares, target[first:last]),
        )

    added = len(down.before) * len(lefts) * len(across.before) * values.shape[-1]
    in_bands(add, len(target), threads=torch.get_num_threads() if added >= WORTH_THREADS else 1)


def add_by_torch(logits: torch.Tensor, lefts: Sequence[int], down: Axis, across: Axis, sums: torch.Tensor) -> None:
    """Do what `add_upsampled` does, on any device."""

    def on_device(values: Indices | Weights) -> torch.Tensor:
        return torch.from_numpy(values).to(logits.device)

    above, left = on_device(down.before).long(), on_device(across.before).long()
    below, right = (above + 1).clamp(max=logits.shape[1] - 1), (left + 1).clamp(max=logits.shape[2] - 1)
    row_shares, column_shares = on_device(down.shares)[:, None, None], on_device(across.shares)[:, None]
    down_weights, across_weights = on_device(down.weights)[:, None, None], on_device(across.weights)[:, None]
    for window, start in zip(logits, lefts, strict=True):
        lines = torch.lerp(window[above], window[below], down_weights) * row_shares
        stop = start + len(left)
        sums[:, start:stop] += torch.lerp(lines[:, left], lines[:, right], across_weights) * column_shares[start:stop]
