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

from ray_segformer.network._interpolation import Axis, Columns, Places, add_upsampled, bends, scale_of, set_to_zero
from ray_segformer.network._window_places import window_starts

if TYPE_CHECKING:
    from ray_segformer.network._argmax_kernels import Indices

_CROPS_AT_ONCE = 16  # windows that are asked for at once: as many as the largest batch of the network

Crops = list[npt.NDArray[Any]]
Segmentation = Generator[Crops, torch.Tensor, Any]
"""A generator that asks for the logits of crops.

It yields pixel values `(3, height, width)`, all of one size, and gets their logits, `(n, h, w, classes)`. If it asked
for one alone, these are valid until it asks for more.
"""


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

    def knots(self, axis: int) -> tuple[Indices, Places]:
        """Return the pixels along an axis of the image where the logits may jump, and the places where they bend."""
        if self._canvas != self._image_size:
            return np.zeros(1, np.int32), bends(self._canvas[axis], self._image_size[axis])
        length = self._upsampled[axis]
        starts = np.array((self._tops, self._placed or self._lefts)[axis], np.int32)
        own = bends(self._logits_size[axis], length)
        return np.concatenate([starts, starts + length]), (starts[:, None] + own).ravel()

    def fetch(self, first: float, last: float) -> Generator[Crops, torch.Tensor, None]:
        """Ask for the logits between two places along the image's height, and forget those that end before them."""
        first, last = self._on_canvas(first, last, axis=0)
        needed = [
            number for number, top in enumerate(self._tops) if top <= last and top + self._upsampled[0] - 1 >= first
        ]
        missing = [number for number in needed if number not in self._strips]
        if missing:
            # No name here may hold a strip as it was while the network makes the next one.
            self._strips = {
                number: self._rest(number, strip, first) for number, strip in self._strips.items() if number in needed
            }
        for number in missing:
            logits = yield from self._row_of_windows(self._tops[number])
            self._logits_size = logits[0].shape[1], logits[0].shape[2]
            self._strips[number] = _Strip(0, logits)

    def _rest(self, number: int, strip: _Strip, place: float) -> _Strip:
        """Return a strip without the logits that no place of the canvas from this one on needs."""
        first = int(self._down(np.array([max(0.0, place - self._tops[number])])).before[0])
        if first == strip.first:
            return strip
        return _Strip(first, [some[:, first - strip.first :].clone() for some in strip.logits])

    def add(self, sums: torch.Tensor, rows: Places, columns: Places, share: np.float32) -> None:
        """Add the view's logits at some places of the image, times `share`, to `sums` `(rows, columns, classes)`."""
        if self._canvas == self._image_size:
            self._add_windows(sums, rows, columns, share)
            return
        # The view has another size than the image: first the view's own pixels, then the places of the image.
        (top, bottom), (left, right) = (
            self._on_canvas(places[0], places[-1], axis) for axis, places in enumerate((rows, columns))
        )
        own_rows, own_columns = np.arange(top, bottom + 1), np.arange(left, right + 1)
        part = set_to_zero(sums.new_empty(len(own_rows), len(own_columns), sums.shape[-1]))
        self._add_windows(part, own_rows, own_columns, np.float32(1))
        down, across = (scale_of(*sides) for sides in zip(self._canvas, self._image_size, strict=True))
        places = Columns(
            columns,
            np.ones(len(columns), np.float32),
            np.array([left / across]),
            np.array([[0, len(columns)]], np.int32),
            across,
        )
        axis = Axis.at(rows - top / down, down, len(own_rows))
        add_upsampled(part[None], axis, np.full(len(rows), share, np.float32), places, sums)

    def _on_canvas(self, first: float, last: float, axis: int) -> tuple[float, float]:
        """Return the places of the canvas, on which windows stand, that two places of the image lie between."""
        sides = self._canvas[axis], self._image_size[axis]
        if self._canvas == self._image_size:
            return first, last
        before = Axis.at(np.array([first, last]), scale_of(*sides), sides[0]).before
        return float(before[0]), float(min(before[1] + 1, sides[0] - 1))

    def _down(self, places: Places) -> Axis:
        """Return where places along the height of a window lie between its logits."""
        return Axis.at(places, scale_of(self._logits_size[0], self._upsampled[0]), self._logits_size[0])

    def _row_of_windows(self, top: int) -> Generator[Crops, torch.Tensor, list[torch.Tensor]]:
        """Ask for the logits of the windows that start in a row of pixels; those of `_groups` of them."""
        height, width = self._crop
        row = self._pixels[:, top : top + height]
        together = []
        for lefts in _groups(self._lefts):
            logits = yield [np.ascontiguousarray(row[..., left : left + width]) for left in lefts]
            if self._mirrored:
                logits = logits.flip(2)
            elif len(lefts) == 1:
                logits = logits.clone()
            together.append(logits)
        return together

    def _add_windows(self, sums: torch.Tensor, rows: Places, columns: Places, share: np.float32) -> None:
        """Add the logits at some places of the canvas to `sums`."""
        height, width = self._upsampled
        column_shares = self._column_shares[columns.astype(np.int32)]
        for number, strip in self._strips.items():
            top = self._tops[number]
            first, last = np.searchsorted(rows, top), np.searchsorted(rows, top + height - 1, side="right")
            if first < last:
                inside = rows[first:last]
                down = self._down(inside - top)
                down = Axis(down.before - np.int32(strip.first), down.weights)
                shares = self._row_shares[inside.astype(np.int32)] * share
                for logits, lefts in zip(strip.logits, _groups(self._placed or self._lefts), strict=True):
                    places = Columns.of(columns, column_shares, lefts, width, logits.shape[2])
                    add_upsampled(logits, down, shares, places, sums[first:last])


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
