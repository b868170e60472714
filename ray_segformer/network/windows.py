"""Class ids from several looks at an image: in sliding windows, mirrored, and at several sizes.

The results are those of mmsegmentation's mode "slide" and of its test-time augmentation. The logits of each window are
upsampled to the window, and averaged where windows overlap. The logits of each view are resized to the image, and
averaged over the views. All of this is done for a few rows of pixels at a time, so full-size logits never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.interpolation import Axis, add_upsampled

_BAND_BYTES = 2 * 2**20  # of sums that are in memory at once: they stay in the cache of a processor
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


def segment_views(
    views: Sequence[View],
    size: tuple[int, int],
    result_of: Callable[[torch.Tensor], Sequence[npt.NDArray[Any]]],
) -> Segmentation:
    """Segment an image from one or more views of it.

    This is a generator. It yields lists of pixel values, and is to be sent the logits of each of them: so the caller
    may put the windows of several images into one batch of the network. It returns the arrays of `result_of`, for all
    rows of the image.

    Args:
        views: the views, whose logits are averaged.
        size: height and width of the image, hence of the result.
        result_of: maps averaged logits `(rows, width, classes)`, float32, to one or more arrays `(rows, width)`. The
            memory of the logits is used again afterwards.
    """
    height, width = size
    looks = [_Look(view, size) for view in views]
    results: list[npt.NDArray[Any]] = []
    sums: torch.Tensor | None = None
    first = 0
    while first < height:
        rows = 1 if sums is None else len(sums)
        last = min(first + rows, height)
        for look in looks:
            yield from look.fetch(first, last)
        if sums is None:  # now the number of classes is known
            example = looks[0].example()
            rows = max(1, min(height, _BAND_BYTES // (4 * width * example.shape[-1])))
            sums = example.new_zeros(rows, width, example.shape[-1])
            continue
        band = sums[: last - first]
        band.zero_()
        for look in looks:
            look.add(band, first, np.float32(1 / len(looks)))
        for number, result in enumerate(result_of(band)):
            if first == 0:
                results.append(np.empty(size, result.dtype))
            results[number][first:last] = result
        first = last
    return results


class _Look:
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
        self._logits: dict[int, torch.Tensor] = {}  # by the number of the row of windows

    def example(self) -> torch.Tensor:
        """Return some of the logits."""
        return next(iter(self._logits.values()))

    def fetch(self, first: int, last: int) -> Generator[Crops, Sequence[torch.Tensor], None]:
        """Ask for the logits that the image's rows `[first, last)` need, and forget those that no later row needs."""
        rows = self._canvas_rows(first, last)
        needed = [
            number for number, top in enumerate(self._tops) if top < rows.stop and top + self._upsampled[0] > rows.start
        ]
        self._logits = {number: logits for number, logits in self._logits.items() if number in needed}
        for number in needed:
            if number not in self._logits:
                self._logits[number] = yield from self._row_of_windows(self._tops[number])

    def add(self, sums: torch.Tensor, first: int, share: np.float32) -> None:
        """Add the view's logits of the image's rows from `first` on, times `share`, to `sums` `(rows, W, classes)`."""
        last = first + len(sums)
        if self._canvas == self._image_size:
            self._add_windows(sums, range(first, last), share)
            return
        # The view has another size than the image: first the view's own rows of pixels, then those of the image.
        rows = self._canvas_rows(first, last)
        band = sums.new_zeros(len(rows), self._canvas[1], sums.shape[-1])
        self._add_windows(band, rows, np.float32(1))
        height, width = self._image_size
        down = Axis.of(self._canvas[0], height).part(first, last, before=rows.start)
        add_upsampled(band[None], [0], down.times(down.shares * share), Axis.of(self._canvas[1], width), sums)

    def _canvas_rows(self, first: int, last: int) -> range:
        """Return the rows of the canvas, on which windows stand, that rows of the image are interpolated from."""
        if self._canvas == self._image_size:
            return range(first, last)
        before = Axis.of(self._canvas[0], self._image_size[0]).before
        return range(int(before[first]), min(int(before[last - 1]) + 2, self._canvas[0]))

    def _row_of_windows(self, top: int) -> Generator[Crops, Sequence[torch.Tensor], torch.Tensor]:
        """Ask for the logits of the windows that start in a row of pixels; `(windows, h, w, classes)`."""
        height, width = self._crop
        row = self._pixels[:, top : top + height]
        together: torch.Tensor | None = None
        for start in range(0, len(self._lefts), _CROPS_AT_ONCE):
            lefts = self._lefts[start : start + _CROPS_AT_ONCE]
            logits = yield [np.ascontiguousarray(row[..., left : left + width]) for left in lefts]
            if together is None:
                together = logits[0].new_empty(len(self._lefts), *logits[0].shape)
            for place, own in enumerate(logits, start):
                together[place] = own.flip(1) if self._mirrored else own
        assert together is not None  # there is one window at least
        return together

    def _add_windows(self, sums: torch.Tensor, rows: range, share: np.float32) -> None:
        height, width = self._upsampled
        for number, logits in self._logits.items():
            top = self._tops[number]
            first, last = max(rows.start, top), min(rows.stop, top + height)
            if first < last:
                down = Axis.of(logits.shape[1], height).part(first - top, last - top)
                down = down.times(self._row_shares[first:last] * share)
                across = Axis.of(logits.shape[2], width).times(self._column_shares)
                part = sums[first - rows.start : last - rows.start]
                add_upsampled(logits, self._placed or self._lefts, down, across, part)


def _shares(length: int, starts: Iterable[int], window: int) -> npt.NDArray[np.float32]:
    """Return for each pixel along a side 1 / the number of windows that cover it."""
    covers = np.zeros(length, np.int32)
    for start in starts:
        covers[start : start + window] += 1
    return (1 / covers).astype(np.float32)
