"""Class ids from several looks at an image: in sliding windows, mirrored, and at several sizes.

The results are those of mmsegmentation's mode "slide" and of its test-time augmentation: the logits of all looks,
upsampled to the image, are averaged. This is done for a small part of the image at a time, a tile, so full-size logits
never exist.

Upsampled logits are linear between the logits, and so are their sums between the logits of all windows. So only the
pixels at both ends of each such stretch are added up: one of four, if windows start at every fourth pixel or so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.bands import in_bands
from ray_segformer.network.interpolation import Axis, Stretches
from ray_segformer.network.windows import Crops, Look, View

_BAND_ROWS = 64  # rows of pixels for which windows are asked for
_TILE_STRETCHES = 4  # along the height, on a CPU
_TILE_BYTES = 2 * 2**20  # of sums in memory at once in each thread: they stay in the cache of a processor
_TILE_BYTES_ELSEWHERE = 256 * 2**20  # a GPU is to have much to do at once


def segment_views(
    views: Sequence[View],
    result_of: Callable[[torch.Tensor, Axis, Axis], Sequence[npt.NDArray[Any]]],
    results: Sequence[npt.NDArray[Any]],
    *,
    every_pixel: bool = False,
) -> Generator[Crops, Sequence[torch.Tensor], None]:
    """Segment an image from one or more views of it.

    This is a generator. It yields lists of pixel values, and is to be sent the logits of each of them: so the caller
    may put the windows of several images into one batch of the network.

    Args:
        views: the views, whose logits are averaged.
        result_of: maps averaged logits `(h, w, classes)`, float32, of some pixels of a part of the image to arrays of
            all its pixels, `(rows, columns)`. It is given where these rows and columns lie between the logits, and is
            called in several threads. The memory of the logits is used again afterwards.
        results: arrays `(height, width)` as large as the image, which are filled.
        every_pixel: whether `result_of` is to get the logits of each pixel. Default: False.
    """
    size = results[0].shape
    looks = [Look(view, size) for view in views]
    for look in looks:
        yield from look.fetch(0, 1)  # now the shapes of logits are known
    down, across = (
        Stretches(np.arange(side) if every_pixel else np.concatenate([look.bends(axis) for look in looks]), side)
        for axis, side in enumerate(size)
    )
    tiles = _Tiles(looks, down, across, result_of, results)
    edges = np.unique(np.searchsorted(down.starts, [*range(0, size[0], _BAND_ROWS), size[0]]))
    for first, last in itertools.pairwise(edges.tolist()):
        for look in looks:
            yield from look.fetch(int(down.starts[first]), int(down.starts[last]))
        tiles.fill(first, last)


class _Tiles:
    """The parts of an image, for each of which the logits of the looks are averaged and turned into results."""

    def __init__(
        self,
        looks: Sequence[Look],
        down: Stretches,
        across: Stretches,
        result_of: Callable[[torch.Tensor, Axis, Axis], Sequence[npt.NDArray[Any]]],
        results: Sequence[npt.NDArray[Any]],
    ) -> None:
        self._looks, self._down, self._across = looks, down, across
        self._result_of, self._results = result_of, results
        self._example = looks[0].example()
        classes = self._example.shape[-1]
        self._on_cpu = self._example.device.type == "cpu"
        self._rows = _TILE_STRETCHES if self._on_cpu else len(down)
        tile_bytes = _TILE_BYTES if self._on_cpu else _TILE_BYTES_ELSEWHERE
        of_stretch = 16 * classes  # both ends of both sides, four bytes each
        self._columns = max(1, min(len(across), tile_bytes // (of_stretch * min(self._rows, _BAND_ROWS))))

    def fill(self, first: int, last: int) -> None:
        """Fill the results in the stretches `[first, last)` along the height. The looks have the logits for them."""
        rows = min(self._rows, last - first)
        corners = [
            (top, left) for top in range(first, last, rows) for left in range(0, len(self._across), self._columns)
        ]

        def fill(first_tile: int, last_tile: int) -> None:
            memory = self._example.new_empty(4 * rows * self._columns * self._example.shape[-1])
            for top, left in corners[first_tile:last_tile]:
                bottom, right = min(top + rows, last), min(left + self._columns, len(self._across))
                self._fill_tile((top, bottom), (left, right), memory)

        in_bands(fill, len(corners), torch.get_num_threads() if self._on_cpu and len(corners) > 1 else 1)

    def _fill_tile(self, rows: tuple[int, int], columns: tuple[int, int], memory: torch.Tensor) -> None:
        (row_ends, down), (column_ends, across) = self._down.ends(*rows), self._across.ends(*columns)
        shape = len(row_ends), len(column_ends), self._example.shape[-1]
        sums = memory[: math.prod(shape)].zero_().view(shape)
        for look in self._looks:
            look.add(sums, row_ends, column_ends, np.float32(1 / len(self._looks)))
        place = tuple(slice(*axis.starts[list(ends)]) for axis, ends in ((self._down, rows), (self._across, columns)))
        for result, own in zip(self._results, self._result_of(sums, down, across), strict=True):
            result[place] = own
