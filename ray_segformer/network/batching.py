"""Batches that fit in memory.

`Groups` limits how many images go through the network at once, and `pieces` limits how many results are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ray_segformer.network.runtimes import Runtime

_PIECE_BYTES = 64 * 2**20


class Groups:
    """Runs the network on the rows of a batch, in groups of images of the same shape.

    The network takes images of one shape at a time, so the rows are grouped by the shape of their pixel values. A group
    has at most `runtime.rows` rows. If a GPU runs out of memory, the group is halved and tried again. Later groups of
    that shape have the smaller size too; other shapes are not affected.

    Tested with a runtime that raises CUDA's out-of-memory error; not yet run on a GPU.

    Args:
        runtime: the network's runtime. Its `rows` when this object is made is the usual size of a group. `run` sets
            `rows` before each group.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._usual_size = runtime.rows
        self._reduced_sizes: dict[tuple[int, ...], int] = {}  # by the shape of pixel values

    def run(
        self, forward: Callable[[npt.NDArray[Any]], Any], pixel_values: Any, errors: list[str | None]
    ) -> Iterator[tuple[list[int], Any]]:
        """Call `forward` for each group, and yield the group's row numbers and the result.

        Args:
            forward: called with the stacked pixel values `(rows, 3, H, W)` of a group.
            pixel_values: one array `(3, H, W)` for each row of the batch.
            errors: for each row None, or why the row failed. Rows with an error are skipped.

        Raises:
            torch.cuda.OutOfMemoryError: a single image does not fit; the message names its row and size.
        """
        import torch

        for shape, rows in _rows_by_shape(pixel_values, errors).items():
            while rows:
                self._runtime.rows = self._reduced_sizes.get(shape, self._usual_size)
                group = rows[: self._runtime.rows]
                result = None
                try:
                    result = forward(np.stack([pixel_values[row] for row in group]))
                except torch.cuda.OutOfMemoryError as error:
                    if len(group) == 1:
                        raise torch.cuda.OutOfMemoryError(
                            f"row {group[0]} of the batch, {shape[-1]} x {shape[-2]} pixels: the network needs more "
                            "memory for this one image than the GPU has left. Let the preprocessor resize images, or "
                            f"set max_pixels. {error}"
                        ) from error
                    self._reduced_sizes[shape] = len(group) // 2
                # Outside of `except`: the error is gone there, and with it the tensors that its frames held.
                if result is None:
                    torch.cuda.empty_cache()
                else:
                    yield group, result
                    rows = rows[len(group) :]


def pieces(batch: dict[str, npt.NDArray[Any]], bytes_per_pixel: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Split a preprocessed batch into consecutive pieces whose results need at most 64 MiB each.

    A row whose results need more is a piece of its own.

    Args:
        batch: columns of the same length; `original_size` has height and width of each row's image.
        bytes_per_pixel: the size of the results for one pixel of an image.
    """
    sizes = np.prod(batch["original_size"], axis=1, dtype=np.int64) * bytes_per_pixel
    start = 0
    while start < len(sizes):
        fitting = int(np.searchsorted(np.cumsum(sizes[start:]), _PIECE_BYTES, side="right"))
        end = start + max(1, fitting)
        yield {name: column[start:end] for name, column in batch.items()}
        start = end


def _rows_by_shape(pixel_values: Any, errors: list[str | None]) -> dict[tuple[int, ...], list[int]]:
    """Group the rows without an error by the shape of their pixel values."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, error in enumerate(errors):
        if error is None:
            by_shape.setdefault(np.shape(pixel_values[row]), []).append(row)
    return by_shape
