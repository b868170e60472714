"""`upsampled_argmax` on a CPU: where each pixel lies between the logits, and threads that run the kernels.

The kernels, compiled by numba, are in `_argmax_kernels`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer.network._argmax_kernels import ClassIds, Logits, fill_class_ids, fill_probabilities
from ray_segformer.network._bands import WORTH_THREADS, in_bands
from ray_segformer.network._interpolation import Axis


def argmax_between_numba(
    logits: Logits, down: Axis, across: Axis, confidence: bool = False, threads: int | None = None
) -> tuple[ClassIds, npt.NDArray[np.float32] | None]:
    """Return the class with the highest logit at each pixel, and its softmax probability or None.

    The first call compiles for some seconds. Numba caches the result on disk, next to the package or in the user's
    cache directory. If neither is writable, the result stays in memory.

    Args:
        logits: `(h, w, classes)`, contiguous.
        down, across: where each row and each column of pixels lies between the logits.
        confidence: whether to compute the probability, too.
        threads: the number of threads. Default: as many as torch uses (`torch.get_num_threads()`).
    """
    classes = logits.shape[2]
    size = len(down.before), len(across.before)
    geometry = down.before, down.weights, across.before, across.weights, across.cells()
    ids = np.empty(size, np.uint8 if classes <= 255 else np.uint16)
    probability = np.empty(size, np.float32) if confidence else None

    def run(first: int, last: int) -> None:
        fill_class_ids(logits, *geometry, first, last, ids)
        if probability is not None:
            # The classes that are left out of the sum add up to at most e^-14, that is 8e-7 of the winner.
            fill_probabilities(logits, *geometry, first, last, ids, np.float32(math.log(classes) + 14), probability)

    if logits.size + ids.size < WORTH_THREADS:
        threads = 1
    in_bands(run, size[0], torch.get_num_threads() if threads is None else threads)
    return ids, probability
