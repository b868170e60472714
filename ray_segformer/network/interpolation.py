"""Bilinear interpolation of logits: where each pixel lies between them, and the sums of upsampled logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ray_segformer.network.argmax_kernels import Indices, Weights


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where each pixel along an axis lies between two logits.

    Attributes:
        before: int32 `(pixels,)`, the index of the logit before each pixel. The one after it is the next one, or the
            same one at the end.
        weights: float32 `(pixels,)`, the weight of the logit after.
    """

    before: Indices
    weights: Weights

    @staticmethod
    @functools.lru_cache(64)
    def of(logits: int, pixels: int) -> Axis:
        """Return the axis of `pixels` pixels over `logits` logits, rounded as torch does without `align_corners`."""
        scale = np.float32(logits) / np.float32(pixels)
        half = np.float32(0.5)
        position = np.maximum((np.arange(pixels, dtype=np.float32) + half) * scale - half, np.float32(0))
        before = np.minimum(position.astype(np.int32), logits - 1)
        return Axis(before, (position - before).astype(np.float32))

    def at(self, pixels: Indices, before: int = 0) -> Axis:
        """Return the axis of some of the pixels, where the logits start with the one that has the index `before`."""
        return Axis(self.before[pixels] - np.int32(before), self.weights[pixels])

    def cells(self) -> Indices:
        """Return the first pixel of each cell, the pixels between the same logits, and the number of pixels: int32."""
        changes = np.flatnonzero(np.diff(self.before)) + 1
        return np.concatenate([[0], changes, [len(self.before)]]).astype(np.int32)

    def bends(self) -> Indices:
        """Return the pixels from which on interpolated values are linear in another way than before them: int32."""
        # Pixels before the middle of the first logit all have its value.
        return np.concatenate([self.cells()[:-1], np.flatnonzero(self.weights > 0)[:1]]).astype(np.int32)


class Stretches:
    """Stretches of pixels along an axis, in each of which sums of interpolated logits are linear.

    The sums at both ends of a stretch tell those between them. So the sums of all other pixels need not be computed.

    Args:
        bends: the pixels where stretches start, in any order. One starts at 0 in any case.
        pixels: the length of the axis.

    Attributes:
        starts: int32, the first pixel of each stretch in ascending order, and the number of pixels.
    """

    def __init__(self, bends: Indices, pixels: int) -> None:
        inner = bends[(bends > 0) & (bends < pixels)]
        self.starts = np.concatenate([[0], np.unique(inner), [pixels]]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def ends(self, first: int, last: int) -> tuple[Indices, Axis]:
        """Return the ends of the stretches `[first, last)`, and where their pixels lie between these.

        Returns:
            int32, the pixels at the ends; and the axis of all pixels from the first one's start to the last one's end,
            over the values at these.
        """
        starts, lengths = self.starts[first:last], np.diff(self.starts[first : last + 1])
        ends = np.unique(np.concatenate([starts, starts + lengths - 1])).astype(np.int32)
        before = np.repeat(np.searchsorted(ends, starts), lengths).astype(np.int32)
        offsets = np.arange(starts[0], self.starts[last], dtype=np.int32) - ends[before]
        return ends, Axis(before, (offsets / np.repeat(np.maximum(lengths - 1, 1), lengths)).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Places:
    """The pixels along an axis of an image at which logits are added up.

    Attributes:
        pixels: int32 `(n,)`, ascending.
        shares: float32 `(n,)`, a factor of what is added to each.
    """

    pixels: Indices
    shares: Weights

    def inside(self, start: int, length: int) -> slice:
        """Return which of the pixels are among `length` pixels from `start` on."""
        first, last = np.searchsorted(self.pixels, (start, start + length))
        return slice(int(first), int(last))


def add_upsampled(
    logits: torch.Tensor,
    lefts: Sequence[int],
    down: Axis,
    row_shares: Weights,
    across: Axis,
    columns: Places,
    sums: torch.Tensor,
) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to some of an image's pixels.

    Tested on a CPU. The way for other devices is tested on a CPU too, but has not been run on a GPU yet.

    Args:
        logits: float32 `(windows, h, w, classes)`.
        lefts: the column of pixels where each window starts.
        down: for each row of `sums`, where it lies between the rows of logits.
        row_shares: float32, a factor for each row of `sums`.
        across: for each column of a window, where it lies between the columns of logits.
        columns: the image's columns of which `sums` are, and a factor for each.
        sums: float32 `(rows, columns, classes)`.
    """
    if logits.device.type == "cpu":
        from ray_segformer.network.windows_kernels import add_windows

        add_windows(
            *(logits.numpy(), np.array(lefts, np.int32), down.before, down.weights, row_shares),
            *(across.before, across.weights, columns.pixels, columns.shares, sums.numpy()),
        )
    else:
        add_by_torch(logits, lefts, down, row_shares, across, columns, sums)


def add_by_torch(
    logits: torch.Tensor,
    lefts: Sequence[int],
    down: Axis,
    row_shares: Weights,
    across: Axis,
    columns: Places,
    sums: torch.Tensor,
) -> None:
    """Do what `add_upsampled` does, on any device."""

    def on_device(values: Indices | Weights) -> torch.Tensor:
        return torch.from_numpy(values).to(logits.device)

    above, down_weights = on_device(down.before).long(), on_device(down.weights)[:, None, None]
    below = (above + 1).clamp(max=logits.shape[1] - 1)
    for window, start in zip(logits, lefts, strict=True):
        inside = columns.inside(start, len(across.before))
        own = across.at(columns.pixels[inside] - np.int32(start))
        left, across_weights = on_device(own.before).long(), on_device(own.weights)[:, None]
        right = (left + 1).clamp(max=logits.shape[2] - 1)
        lines = torch.lerp(window[above], window[below], down_weights) * on_device(row_shares)[:, None, None]
        added = torch.lerp(lines[:, left], lines[:, right], across_weights)
        sums[:, inside] += added * on_device(columns.shares[inside])[:, None]
