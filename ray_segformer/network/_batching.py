"""Batches that fit in memory.

`Groups` limits how many images go through the network at once, and `pieces` limits how many results are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from ray_segformer.network._runtimes import Runtime
    from ray_segformer.network._windows import Segmentation

_PIECE_BYTES = 64 * 2**20


class Groups:
    """Runs the network for the images of a batch, in groups of pixel values of the same shape.

    The network takes pixel values of one shape at a time: of whole images or of windows, and of several images if their
    shapes agree. A group has at most `runtime.rows` of them. If a GPU runs out of memory, the group is halved and tried
    again. Later groups of that shape have the smaller size too; other shapes are not affected.

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
        self,
        forward: Callable[[npt.NDArray[Any]], torch.Tensor],
        segmentations: Iterable[tuple[int, Segmentation]],
    ) -> Iterator[tuple[int, Any]]:
        """Drive segmentations, and yield the row number and the result of each, or the exception that it raised.

        Those of large images are driven alone. Small images are driven together, as many as fill a group.

        Args:
            forward: called with the stacked pixel values `(N, 3, H, W)` of a group; returns logits `(N, h, w,
                classes)`, which need to be valid only until its next call.
            segmentations: generators as `segment_views`, with the row number of each.

        Raises:
            torch.cuda.OutOfMemoryError: a single image does not fit; the message names its row and size.
        """
        waiting = iter(segmentations)
        active: list[_Active] = []
        while True:
            while sum(len(each.open) for each in active) < self._usual_size and (following := next(waiting, None)):
                active.append(_Active(*following))
                if active[-1].done:
                    yield active.pop().outcome
            if not active:
                return
            group = self._next_group(active)
            logits = self._forward(forward, group)
            for (each, place), own in zip(group, logits, strict=False):
                each.receive(place, own)
                if each.done:
                    yield each.outcome
            active = [each for each in active if not each.done]

    def _next_group(self, active: Sequence[_Active]) -> list[tuple[_Active, int]]:
        """Return whose pixel values are next: those of one shape and dtype, of the first image and of others."""
        asked = [(each, place, each.crops[place]) for each in active for place in each.open]
        first = asked[0][2]
        alike = [(each, place) for each, place, own in asked if (own.shape, own.dtype) == (first.shape, first.dtype)]
        return alike[: self._size(first.shape)]

    def _size(self, shape: tuple[int, ...]) -> int:
        return self._reduced_sizes.get(shape, self._usual_size)

    def _forward(
        self, forward: Callable[[npt.NDArray[Any]], torch.Tensor], group: Sequence[tuple[_Active, int]]
    ) -> torch.Tensor:
        """Return the logits of a group, or of its first part if the GPU has no memory for all."""
        crops = [each.crops[place] for each, place in group]
        shape = crops[0].shape
        while True:
            self._runtime.rows = self._size(shape)
            try:
                return forward(np.stack(crops[: self._runtime.rows]))
            except torch.cuda.OutOfMemoryError as error:
                size = len(crops[: self._runtime.rows])
                if size == 1:
                    raise torch.cuda.OutOfMemoryError(
                        f"row {group[0][0].row} of the batch, {shape[-1]} x {shape[-2]} pixels: the network needs more "
                        "memory for this one image than the GPU has left. Let the preprocessor resize images, predict "
                        f"them in windows, or set max_pixels. {error}"
                    ) from error
                self._reduced_sizes[shape] = size // 2
            # Outside of `except`: the error is gone there, and with it the tensors that its frames held.
            torch.cuda.empty_cache()


class _Active:
    """A segmentation that waits for logits.

    Attributes:
        row: its row number.
        crops: the pixel values that it asked for.
        open: the places in `crops` whose logits are still missing.
        done: whether it has ended. Then `outcome` is the row number, and the result or an exception.
    """

    def __init__(self, row: int, segmentation: Segmentation) -> None:
        self.row, self._segmentation = row, segmentation
        self.done = False
        self.open: list[int] = []
        self._logits: torch.Tensor | None = None  # those that came so far
        self._advance(None)

    def receive(self, place: int, logits: torch.Tensor) -> None:
        """Take the logits of one of `crops`. They are copied if the segmentation has to wait for others."""
        if len(self.crops) == 1:
            self._advance(logits[None])
            return
        if self._logits is None:
            self._logits = logits.new_empty(len(self.crops), *logits.shape)
        self._logits[place] = logits
        self.open.remove(place)
        if not self.open:
            self._advance(self._logits)

    def _advance(self, logits: torch.Tensor | None) -> None:
        self._logits = None
        try:
            self.crops = self._segmentation.send(logits)  # type: ignore[arg-type]
            self.open = list(range(len(self.crops)))
            return
        except StopIteration as end:
            self.outcome = self.row, end.value
        except Exception as error:
            self.outcome = self.row, error
        self.done, self.open = True, []


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
