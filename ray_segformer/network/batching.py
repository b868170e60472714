"""How many images at once: as many as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ray_segformer.network.runtimes import Runtime

_PIECE_BYTES = 64 * 2**20


class Groups:
    """Gives rows to a runtime in groups of one shape, as large as it wants them or as a GPU's memory allows.

    Where the memory does not hold a group's activations, the group is halved, and images of that shape come in such
    groups from then on. Tested with a runtime that raises CUDA's error; on a GPU this has not been run yet.

    Args:
        runtime: its `rows` are lowered, and raised again, for a shape.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._usual = runtime.rows
        self._fewer: dict[tuple[int, ...], int] = {}  # by shape

    def run(
        self, forward: Callable[[np.ndarray], Any], pixel_values: Any, errors: list[str | None]
    ) -> Iterator[tuple[list[int], Any]]:
        """The rows without an error, in groups, each with what `forward` makes of its pixel values.

        Raises:
            torch.cuda.OutOfMemoryError: not even one image fits; the message names its size.
        """
        import torch

        for shape, rows in _rows_by_shape(pixel_values, errors).items():
            while rows:
                self._runtime.rows = self._fewer.get(shape, self._usual)
                some = rows[: self._runtime.rows]
                result = None
                try:
                    result = forward(np.stack([pixel_values[row] for row in some]))
                except torch.cuda.OutOfMemoryError as error:
                    if len(some) == 1:
                        raise torch.cuda.OutOfMemoryError(
                            f"row {some[0]} of the batch, {shape[-1]} x {shape[-2]} pixels: the network takes more "
                            "memory for this one image than the GPU has left. Let the preprocessor resize images, or "
                            f"set max_pixels. {error}"
                        ) from error
                    self._fewer[shape] = len(some) // 2
                if result is None:  # and the error, whose frames hold tensors, is gone
                    torch.cuda.empty_cache()
                else:
                    yield some, result
                    rows = rows[len(some) :]


def pieces(batch: dict[str, np.ndarray], bytes_per_pixel: int) -> Iterator[dict[str, np.ndarray]]:
    """A preprocessed batch in pieces, each of whose results take no more than 64 MB, or are one row's.

    Args:
        bytes_per_pixel: that the results take for each pixel of `original_size`.
    """
    sizes = np.prod(batch["original_size"], axis=1, dtype=np.int64) * bytes_per_pixel
    start = 0
    while start < len(sizes):
        fit = int(np.searchsorted(np.cumsum(sizes[start:]), _PIECE_BYTES, side="right"))
        end = start + max(1, fit)
        yield {name: column[start:end] for name, column in batch.items()}
        start = end


def _rows_by_shape(pixel_values: Any, errors: list[str | None]) -> dict[tuple[int, ...], list[int]]:
    """Rows without an error, by the shape of their pixel values."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, error in enumerate(errors):
        if error is None:
            by_shape.setdefault(np.shape(pixel_values[row]), []).append(row)
    return by_shape
