"""Bilinear interpolation of logits: where each pixel lies between them, and the sums of upsampled logits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from ray_segformer.network._argmax_kernels import Indices, Weights

Places = npt.NDArray[np.float64]

_SAME_PLACE = 1e-6  # pixels: knots that are closer differ by rounding alone


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
        return Axis.at(np.arange(pixels, dtype=np.float32), scale_of(logits, pixels), logits)

    @staticmethod
    def at(places: npt.NDArray[np.floating[Any]], scale: np.float32, logits: int) -> Axis:
        """Return the axis of places, which may be between pixels, over `logits` logits."""
        half = np.float32(0.5)
        position = np.maximum((places + half) * scale - half, np.float32(0))
        before = np.minimum(position.astype(np.int32), logits - 1)
        return Axis(before, (position - before).astype(np.float32))

    def cells(self) -> Indices:
        """Return the first pixel of each cell, the pixels between the same logits, and the number of pixels: int32."""
        changes = np.flatnonzero(np.diff(self.before)) + 1
        return np.concatenate([[0], changes, [len(self.before)]]).astype(np.int32)


def scale_of(logits: int, pixels: int) -> np.float32:
    """Return how many logits there are for a pixel."""
    return np.float32(logits) / np.float32(pixels)


def bends(logits: int, pixels: int) -> Places:
    """Return the places along `pixels` pixels where each of the logits lies: interpolated values are linear between."""
    return (np.arange(logits) + 0.5) / np.float64(scale_of(logits, pixels)) - 0.5


class Knots:
    """Places along an axis between which sums of interpolated logits are linear.

    The sums at two neighbouring knots tell those of all pixels between them.

    Args:
        jumps: the first pixels of pieces of the axis, in any order. Sums may differ from a piece to the next in any
            way. One starts at 0 in any case.
        bends: the places where logits lie, in any order.
        pixels: the length of the axis.

    Attributes:
        places: float64, the knots in ascending order: the bends, and the first and the last pixel of each piece.
        cells: int32, the first pixel of each cell, the pixels between the same knots, and the number of pixels.
    """

    def __init__(self, jumps: Indices, bends: Places, pixels: int) -> None:
        starts = np.unique(np.concatenate([[0], jumps[(jumps > 0) & (jumps < pixels)]]))
        lasts = np.append(starts[1:], pixels) - 1
        piece = np.searchsorted(starts, bends, side="right") - 1
        inside = (bends > starts[piece] + _SAME_PLACE) & (bends < lasts[piece] - _SAME_PLACE) & (piece >= 0)
        bends, piece = bends[inside], piece[inside]
        order = np.argsort(bends)
        bends, piece = bends[order], piece[order]
        new = np.diff(bends, prepend=-np.inf) > _SAME_PLACE
        bends, piece = bends[new], piece[new]
        # Where knots would be as many as pixels, each pixel is one.
        dense = np.bincount(piece, minlength=len(starts)) + 2 >= lasts - starts + 1
        by_pixel = np.flatnonzero(np.repeat(dense, lasts - starts + 1))
        starts, lasts = np.union1d(starts, by_pixel), np.union1d(lasts, by_pixel)
        self.places = np.unique(np.concatenate([starts, lasts, bends[~dense[piece]]]).astype(np.float64))
        every = np.arange(pixels)
        first = np.isin(every, starts, assume_unique=True)
        before = np.searchsorted(self.places, every) - np.where(first, 0, 1)
        lengths = np.where(first, 1.0, self.places[np.minimum(before + 1, len(self.places) - 1)] - self.places[before])
        self._axis = Axis(before.astype(np.int32), ((every - self.places[before]) / lengths).astype(np.float32))
        self.cells = self._axis.cells()

    def part(self, first: int, last: int) -> Part:
        """Return the part of the cells `[first, last)`."""
        pixels = slice(int(self.cells[first]), int(self.cells[last]))
        before, weights = self._axis.before[pixels], self._axis.weights[pixels]
        end = before[-1] + (2 if weights[-1] > 0 else 1)
        return Part(pixels, self.places[before[0] : end], Axis(before - before[0], weights))


class Part(NamedTuple):
    """A part of an axis.

    Attributes:
        pixels: the first one, and the first one after it.
        places: float64, the knots that its pixels lie between.
        axis: where its pixels lie between the values at these.
    """

    pixels: slice
    places: Places
    axis: Axis


@dataclasses.dataclass(frozen=True)
class Columns:
    """The places along an image's width at which windows that stand side by side are added up.

    Attributes:
        places: float64 `(n,)`, ascending.
        shares: float32 `(n,)`, a factor of what is added at each.
        lefts: float64 `(windows,)`, the place where each window starts.
        covered: int32 `(windows, 2)`, which of the places it covers: the first, and the one after the last.
        scale: how many logits there are for a pixel of a window.
    """

    places: Places
    shares: Weights
    lefts: Places
    covered: Indices
    scale: np.float32

    @staticmethod
    def of(places: Places, shares: Weights, lefts: Sequence[int], width: int, logits: int) -> Columns:
        """Return the columns of windows of `width` pixels, `logits` logits each, which start at `lefts`."""
        starts = np.array(lefts, np.float64)
        first, last = np.searchsorted(places, starts), np.searchsorted(places, starts + (width - 1), side="right")
        return Columns(places, shares, starts, np.stack([first, last], 1).astype(np.int32), scale_of(logits, width))


def set_to_zero(values: torch.Tensor) -> torch.Tensor:
    """Set a tensor to zero, and return it. On a CPU, NumPy does it: see `in_bands`."""
    if values.device.type == "cpu":
        values.numpy().fill(0)
        return values
    return values.zero_()


def add_upsampled(logits: torch.Tensor, down: Axis, row_shares: Weights, columns: Columns, sums: torch.Tensor) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to some places of an image.

    Tested on a CPU. The way for other devices is tested on a CPU too, but has not been run on a GPU yet.

    Args:
        logits: float32 `(windows, h, w, classes)`.
        down: for each row of `sums`, where it lies between the rows of logits.
        row_shares: float32, a factor for each row of `sums`.
        columns: those of `sums`.
        sums: float32 `(rows, columns, classes)`.
    """
    if logits.device.type == "cpu":
        from ray_segformer.network._windows_kernels import add_windows

        add_windows(
            *(logits.numpy(), down.before, down.weights, row_shares),
            *(columns.places, columns.shares, columns.lefts, columns.covered, columns.scale, sums.numpy()),
        )
    else:
        add_by_torch(logits, down, row_shares, columns, sums)


def add_by_torch(logits: torch.Tensor, down: Axis, row_shares: Weights, columns: Columns, sums: torch.Tensor) -> None:
    """Do the same as `add_upsampled`, on any device."""

    def on_device(values: Indices | Weights) -> torch.Tensor:
        return torch.from_numpy(values).to(logits.device)

    above, down_weights = on_device(down.before).long(), on_device(down.weights)[:, None, None]
    below = (above + 1).clamp(max=logits.shape[1] - 1)
    for window, start, (first, last) in zip(logits, columns.lefts, columns.covered.tolist(), strict=True):
        own = Axis.at(columns.places[first:last] - start, columns.scale, logits.shape[2])
        left, across_weights = on_device(own.before).long(), on_device(own.weights)[:, None]
        right = (left + 1).clamp(max=logits.shape[2] - 1)
        lines = torch.lerp(window[above], window[below], down_weights) * on_device(row_shares)[:, None, None]
        added = torch.lerp(lines[:, left], lines[:, right], across_weights)
        sums[:, first:last] += added * on_device(columns.shares[first:last])[:, None]
