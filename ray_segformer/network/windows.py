"""Views of an image, their sliding windows, and the logits of those windows that are needed next.

Windows stand where mmsegmentation's mode "slide" puts them. The logits of each window are upsampled to the window, and
averaged where windows overlap; those of a view of another size are resized to the image.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.interpolation import Axis, Places, add_upsampled

if TYPE_CHECKING:
    from ray_segformer.network.argmax_kernels import Indices

_CROPS_AT_ONCE = 16  # windows that are asked for at once: as many as the largest batch of the network

# What a segmentation asks for, pixel values `(3, height, width)`, and what it gets, logits `(h, w, classes)` of each.
Crops = list[npt.NDArray[Any]]
Segmentation = Generator[Crops, Sequence[torch.Tensor], Any]


@dataclass(frozen=True)
class View:
    """An image as the network is to see it.

    Attributes:
        pixel_values: `(3, height, width)`.
        mirrored: whether left and right are to be swapped before the network sees it.
        window: the side of sliding windows in pixels; None for the whole view at once.
        stride: the distance between windows in pixels; None for `window`.
    """

    pixel_values: npt.NDArray[Any]
    mirrored: bool = False
    window: int | None = None
    stride: int | None = None


def check_window(window: int, stride: int) -> None:
    """Check that windows are of at least one pixel, and leave no gaps.

    Raises:
        ValueError: they do not; the message names the wrong value and what is expected.
    """
    for name, value in (("window", window), ("stride", stride)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} (--{name}) is a number of pixels of at least 1, not {value!r}")
    if stride > window:
        raise ValueError(f"a stride of {stride} pixels leaves gaps between windows of {window} pixels")


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side of `length` pixels, as mmsegmentation's `slide_inference` places them.

    One starts at every stride. The last one ends where the side ends. A side that is shorter than a window has one.
    """
    return [min(start, max(length - window, 0)) for start in range(0, max(length - window, 0) + stride, stride)]


class Look:
    """A view, and the logits of those of its windows that the next rows of the image need."""

    def __init__(self, view: View, image_size: tuple[int, int]) -> None:
        pixels = view.pixel_values[..., ::-1] if view.mirrored else view.pixel_values
        self._pixels, self._mirrored = pixels, view.mirrored
        size = pixels.shape[-2:]
        if view.window is None:
            # The logits of a whole view are resized to the image at once, as transformers does.
            self._crop = size
            self._tops, self._lefts = [0], [0]
            self._canvas = self._upsampled = image_size
        else:
            stride = view.stride or view.window
            self._crop = min(view.window, size[0]), min(view.window, size[1])
            self._tops, self._lefts = (window_starts(side, view.window, stride) for side in size)
            self._canvas, self._upsampled = size, self._crop
        self._placed = [self._canvas[1] - left - self._upsampled[1] for left in self._lefts] if view.mirrored else []
        self._row_shares = _shares(self._canvas[0], self._tops, self._upsampled[0])
        self._column_shares = _shares(self._canvas[1], self._placed or self._lefts, self._upsampled[1])
        self._image_size = image_size
        self._strips: dict[int, _Strip] = {}  # by the number of the row of windows
        self._logits_size = (0, 0)  # those of a window

    def example(self) -> torch.Tensor:
        """Return some of the logits."""
        return next(iter(self._strips.values())).logits[0]

    def bends(self, axis: int) -> Indices:
        """Return the pixels along an axis of the image where the logits are linear in another way than before."""
        if self._canvas != self._image_size:
            return Axis.of(self._canvas[axis], self._image_size[axis]).bends()
        length = self._upsampled[axis]
        own = np.append(Axis.of(self._logits_size[axis], length).bends(), np.int32(length))
        starts = (self._tops, self._placed or self._lefts)[axis]
        return np.concatenate([np.int32(start) + own for start in starts])

    def fetch(self, first: int, last: int) -> Generator[Crops, Sequence[torch.Tensor], None]:
        """Ask for the logits that the image's rows `[first, last)` need, and forget those that no later row needs."""
        rows = self._between(first, last, axis=0)
        needed = [
            number for number, top in enumerate(self._tops) if top < rows.stop and top + self._upsampled[0] > rows.start
        ]
        missing = [number for number in needed if number not in self._strips]
        if missing:
            # No name here may hold a strip as it was while the network makes the next one.
            self._strips = {
                number: self._rest(number, strip, rows.start)
                for number, strip in self._strips.items()
                if number in needed
            }
        for number in missing:
            logits = yield from self._row_of_windows(self._tops[number])
            self._logits_size = logits[0].shape[1], logits[0].shape[2]
            self._strips[number] = _Strip(0, logits)

    def _rest(self, number: int, strip: _Strip, row: int) -> _Strip:
        """Return a strip without the logits that no pixel from a row of the canvas on needs."""
        before = Axis.of(self._logits_size[0], self._upsampled[0]).before
        first = int(before[max(0, row - self._tops[number])])
        if first == strip.first:
            return strip
        return _Strip(first, [some[:, first - strip.first :].clone() for some in strip.logits])

    def add(self, sums: torch.Tensor, rows: Indices, columns: Indices, share: np.float32) -> None:
        """Add the view's logits of some of the image's pixels, times `share`, to `sums` `(rows, columns, classes)`."""
        if self._canvas == self._image_size:
            self._add_windows(sums, rows, columns, share)
            return
        # The view has another size than the image: first the view's own pixels, then those of the image.
        own_rows, own_columns = (
            self._between(int(pixels[0]), int(pixels[-1]) + 1, axis) for axis, pixels in enumerate((rows, columns))
        )
        part = sums.new_zeros(len(own_rows), len(own_columns), sums.shape[-1])
        self._add_windows(part, np.array(own_rows, np.int32), np.array(own_columns, np.int32), np.float32(1))
        down, across = (Axis.of(*sides) for sides in zip(self._canvas, self._image_size, strict=True))
        across = Axis(across.before - np.int32(own_columns.start), across.weights)
        shares, places = np.full(len(rows), share, np.float32), Places(columns, np.ones(len(columns), np.float32))
        add_upsampled(part[None], [0], down.at(rows, before=own_rows.start), shares, across, places, sums)

    def _between(self, first: int, last: int, axis: int) -> range:
        """Return the pixels of the canvas, on which windows stand, that the image's `[first, last)` lie between."""
        if self._canvas == self._image_size:
            return range(first, last)
        before = Axis.of(self._canvas[axis], self._image_size[axis]).before
        return range(int(before[first]), min(int(before[last - 1]) + 2, self._canvas[axis]))

    def _row_of_windows(self, top: int) -> Generator[Crops, Sequence[torch.Tensor], list[torch.Tensor]]:
        """Ask for the logits of the windows that start in a row of pixels; those of `_groups` of them."""
        height, width = self._crop
        row = self._pixels[:, top : top + height]
        together = []
        for lefts in _groups(self._lefts):
            logits = yield [np.ascontiguousarray(row[..., left : left + width]) for left in lefts]
            together.append(torch.stack([own.flip(1) if self._mirrored else own for own in logits]))
        return together

    def _add_windows(self, sums: torch.Tensor, rows: Indices, columns: Indices, share: np.float32) -> None:
        """Add the logits of some pixels of the canvas to `sums`."""
        height, width = self._upsampled
        across = Axis.of(self._logits_size[1], width)
        places = Places(columns, self._column_shares[columns])
        for number, strip in self._strips.items():
            top = self._tops[number]
            first, last = np.searchsorted(rows, (top, top + height))
            if first < last:
                inside = rows[first:last]
                down = Axis.of(self._logits_size[0], height).at(inside - np.int32(top), before=strip.first)
                shares = self._row_shares[inside] * share
                for logits, lefts in zip(strip.logits, _groups(self._placed or self._lefts), strict=True):
                    add_upsampled(logits, lefts, down, shares, across, places, sums[first:last])


@dataclass(frozen=True)
class _Strip:
    """Logits of windows that stand side by side, without their rows before `first`.

    They are in `_groups`, each `(windows, h, w, classes)`: one tensor for all of a huge image would need a place in
    memory that nothing freed is large enough for.
    """

    first: int
    logits: list[torch.Tensor]


def _groups(starts: Sequence[int]) -> list[Sequence[int]]:
    """Return where windows start, as many at a time as are asked for at once."""
    return [starts[first : first + _CROPS_AT_ONCE] for first in range(0, len(starts), _CROPS_AT_ONCE)]


def _shares(length: int, starts: Iterable[int], window: int) -> npt.NDArray[np.float32]:
    """Return for each pixel along a side 1 / the number of windows that cover it."""
    covers = np.zeros(length, np.int32)
    for start in starts:
        covers[start : start + window] += 1
    return (1 / covers).astype(np.float32)
