"""`upsampled_argmax` on a CPU: where each pixel lies between the logits, and threads that run the kernels.

The kernels, compiled by numba, are in `argmax_kernels`. They release the GIL, and Python threads run them on bands of
rows. Numba's own threads are not used, because they and torch's OpenMP threads would keep the processors busy while
waiting for each other.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.argmax_kernels import ClassIds, Indices, Logits, Weights, fill_class_ids, fill_probabilities

# With fewer logits and pixels together, several threads are not faster than one.
_WORTH_THREADS = 1_000_000


def upsampled_argmax_numba(
    logits: Logits, size: tuple[int, int], confidence: bool = False
) -> tuple[ClassIds, npt.NDArray[np.float32] | None]:
    """Compute `upsampled_argmax` of contiguous logits whose shape and dtype have been checked.

    Runs in as many threads as torch uses (`torch.get_num_threads()`). The first call compiles for some seconds. Numba
    caches the result on disk, next to the package or in the user's cache directory. If neither is writable, the result
    stays in memory.

    Returns:
        The class ids, and the probabilities or None.
    """
    height, width = size
    classes = logits.shape[2]
    rows, row_weights = _neighbours(logits.shape[0], height)
    columns, column_weights = _neighbours(logits.shape[1], width)
    # The first pixel of each cell along the width, and the end of the last cell.
    cells = np.concatenate([[0], np.flatnonzero(np.diff(columns)) + 1, [width]]).astype(np.int32)
    geometry = rows, row_weights, columns, column_weights, cells
    ids = np.empty(size, np.uint8 if classes <= 255 else np.uint16)
    probability = np.empty(size, np.float32) if confidence else None

    def run(first: int, last: int) -> None:
        fill_class_ids(logits, *geometry, first, last, ids)
        if probability is not None:
            # The classes that are left out of the sum add up to at most e^-14, that is 8e-7 of the winner.
            fill_probabilities(logits, *geometry, first, last, ids, np.float32(math.log(classes) + 14), probability)

    threads = torch.get_num_threads() if logits.size + ids.size >= _WORTH_THREADS else 1
    if threads == 1:
        run(0, height)
    else:
        bands = min(2 * threads, height)  # two for each thread, because some bands take longer than others
        edges = [height * band // bands for band in range(bands + 1)]
        list(_pool(threads).map(run, edges[:-1], edges[1:]))
    return ids, probability


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="upsampled_argmax")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process inherits the pool, but not its threads


def _neighbours(logits: int, pixels: int) -> tuple[Indices, Weights]:
    """Return which two of `logits` values along one axis each of `pixels` pixels lies between, rounded as torch does.

    Returns:
        The index of the value before, int32 `(pixels,)`, and the weight of the value after, float32 `(pixels,)`. The
        value after is the next one, or the same one at the end.
    """
    scale = np.float32(logits) / np.float32(pixels)
    half = np.float32(0.5)
    position = np.maximum((np.arange(pixels, dtype=np.float32) + half) * scale - half, np.float32(0))
    before = np.minimum(position.astype(np.int32), logits - 1)
    return before, (position - before).astype(np.float32)
