"""The kernel of sliding windows on a CPU, compiled by numba: it adds the upsampled logits of windows, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ray_segformer.network._argmax_kernels import Indices, Logits, Weights, compiled


@compiled("contract")  # this flag lets LLVM use one instruction for a multiplication and an addition
def add_windows(
    logits: Logits,
    rows: Indices,
    row_weights: Weights,
    row_shares: Weights,
    places: npt.NDArray[np.float64],
    shares: Weights,
    lefts: npt.NDArray[np.float64],
    covered: Indices,
    scale: np.float32,
    sums: Logits,
) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to some places of an image.

    Args:
        logits: `(windows, h, w, classes)`.
        rows, row_weights, row_shares: for each row of `sums`, the row of logits before it, the weight of the one after
            it, and a factor of what is added.
        places, shares, lefts, covered, scale: those of `Columns`.
        sums: `(rows, columns, classes)`.
    """
    windows, h, w, classes = logits.shape
    between = np.empty((w, classes), np.float32)
    befores = np.empty(places.size, np.int32)
    weights = np.empty(places.size, np.float32)
    for window in range(windows):
        first, last = covered[window]
        if first == last:
            continue
        for place in range(first, last):
            position = max((places[place] - lefts[window] + 0.5) * scale - 0.5, 0.0)
            befores[place] = min(int(position), w - 1)
            weights[place] = position - befores[place]
        for y in range(rows.size):
            above = logits[window, rows[y]]
            line = above
            v = row_weights[y]
            if v != 0:
                below = logits[window, min(rows[y] + 1, h - 1)]
                for x in range(befores[first], min(befores[last - 1] + 2, w)):
                    for c in range(classes):
                        between[x, c] = above[x, c] + v * (below[x, c] - above[x, c])
                line = between
            for place in range(first, last):
                left = line[befores[place]]
                pixel = sums[y, place]
                share = shares[place] * row_shares[y]
                t = weights[place]
                if t == 0:
                    for c in range(classes):
                        pixel[c] += share * left[c]
                else:
                    right = line[min(befores[place] + 1, w - 1)]
                    t = t * share
                    s = share - t
                    for c in range(classes):
                        pixel[c] += s * left[c] + t * right[c]
