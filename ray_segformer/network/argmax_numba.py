"""`upsampled_argmax` on a CPU: where each pixel lies between the logits, and threads that run the kernels.

The kernels, compiled by numba, are in `argmax_kernels`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network.argmax_kernels import ClassIds, Logits, fill_class_ids, fill_probabilities
from ray_segformer.network.bands import WORTH_THREADS, in_bands
from ray_segformer.network.interpolation import neighbours


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
    rows, row_weights = neighbours(logits.shape[0], height)
    columns, column_weights = neighbours(logits.shape[1], width)
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

    threads = torch.get_num_threads() if logits.size + ids.size >= WORTH_THREADS else 1
    in_bands(run, height, threads)
    return ids, probability
