"""Class ids from several views of an image (looks): in sliding windows, mirrored, and at several sizes.

The results are those of mmsegmentation's mode "slide" and of its test-time augmentation: the logits of all looks,
upsampled to the image, are averaged. This is done for a small part of the image at a time, a tile, so full-size logits
never exist.

Upsampled logits are linear between the logits, and so are their sums between the logits of all windows. So logits are
added up at these places alone, the knots: as many as a window has logits, if windows start at every fourth pixel or so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network._bands import in_bands
from ray_segformer.network._interpolation import Axis, Knots, Part, set_to_zero
from ray_segformer.network._windows import Crops, Look, View

_BAND_ROWS = 64  # rows of pixels for which windows are asked for
_TILE_CELLS = 4  # between knots along the height, on a CPU
_TILE_BYTES = 2 * 2**20  # of sums in memory at once in each thread: they stay in the cache of a processor
_TILE_BYTES_ELSEWHERE = 256 * 2**20  # a GPU is to have much to do at once


def segment_views(
    views: Sequence[View],
    result_of: Callable[[torch.Tensor, Axis, Axis], Sequence[npt.NDArray[Any]]],
    results: Sequence[npt.NDArray[Any]],
    *,
    every_pixel: bool = False,
) -> Generator[Crops, torch.Tensor, None]:
    """Segment an image from one or more views of it.

    This is a generator. It yields lists of pixel values, and is to be sent their logits: so the caller may put the
    windows of several images into one batch of the network.

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
        yield from look.fetch(0, 0)  # now the shapes of logits are known
    down, across = (_knots(looks, axis, side, every_pixel) for axis, side in enumerate(size))
    tiles = _Tiles(looks, down, across, result_of, results, every_pixel)
    edges = np.unique(np.searchsorted(down.cells, [*range(0, size[0], _BAND_ROWS), size[0]]))
    for first, last in itertools.pairwise(edges.tolist()):
        places = down.part(first, last).places
        for look in looks:
            yield from look.fetch(places[0], places[-1])
        tiles.fill(first, last)


def _knots(looks: Sequence[Look], axis: int, side: int, every_pixel: bool) -> Knots:
    """Return the knots of the sums of all looks along an axis of the image."""
    if every_pixel:
        return Knots(np.arange(side, dtype=np.int32), np.empty(0), side)
    jumps, bends = zip(*(look.knots(axis) for look in looks), strict=True)
    return Knots(np.concatenate(jumps), np.concatenate(bends), side)


class _Tiles:
    """The parts of an image, for each of which the logits of the looks are averaged and turned into results."""

    def __init__(
        self,
        looks: Sequence[Look],
        down: Knots,
        across: Knots,
        result_of: Callable[[torch.Tensor, Axis, Axis], Sequence[npt.NDArray[Any]]],
        results: Sequence[npt.NDArray[Any]],
        every_pixel: bool,
    ) -> None:
        self._looks, self._down, self._every_pixel = looks, down, every_pixel
        self._result_of, self._results = result_of, results
        self._example = looks[0].example()
        self._on_cpu = self._example.device.type == "cpu"
        self._rows = _TILE_CELLS if self._on_cpu else _BAND_ROWS
        tile_bytes = _TILE_BYTES if self._on_cpu else _TILE_BYTES_ELSEWHERE
        columns = max(1, tile_bytes // (4 * self._example.shape[-1] * self._rows))
        cells = len(across.cells) - 1
        self._columns = [across.part(left, min(left + columns, cells)) for left in range(0, cells, columns)]

    def fill(self, first: int, last: int) -> None:
        """Fill the results in the cells `[first, last)` along the height. The looks have the logits for them."""
        rows = [self._down.part(top, min(top + self._rows, last)) for top in range(first, last, self._rows)]
        tiles = [*itertools.product(rows, self._columns)]
        values = max(len(part.places) for part in rows) * max(len(part.places) for part in self._columns)

        def fill(first_tile: int, last_tile: int) -> None:
            memory = self._example.new_empty(values * self._example.shape[-1])
            for tile in tiles[first_tile:last_tile]:
                self._fill_tile(*tile, memory)

        # Where pixels are asked for, it is torch that computes their results: see `in_bands`.
        several = self._on_cpu and len(tiles) > 1 and not self._every_pixel
        in_bands(fill, len(tiles), torch.get_num_threads() if several else 1)

    def _fill_tile(self, rows: Part, columns: Part, memory: torch.Tensor) -> None:
        shape = len(rows.places), len(columns.places), self._example.shape[-1]
        sums = set_to_zero(memory[: math.prod(shape)].view(shape))
        for look in self._looks:
            look.add(sums, rows.places, columns.places, np.float32(1 / len(self._looks)))
        for result, own in zip(self._results, self._result_of(sums, rows.axis, columns.axis), strict=True):
            result[rows.pixels, columns.pixels] = own
