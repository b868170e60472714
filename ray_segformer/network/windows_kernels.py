"""The kernel of sliding windows on a CPU, compiled by numba: it adds the upsampled logits of windows, row by row."""

from __future__ import annotations

import numpy as np

from ray_segformer.network.argmax_kernels import ClassIds, Indices, Logits, Weights, compiled


@compiled("contract")  # this flag lets LLVM use one instruction for a multiplication and an addition
def add_windows(
    logits: Logits,
    lefts: Indices,
    rows: Indices,
    row_weights: Weights,
    row_shares: Weights,
    columns: Indices,
    column_weights: Weights,
    column_shares: Weights,
    sums: Logits,
) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to rows of pixels.

    Args:
        logits: `(windows, h, w, classes)`.
        lefts: int32 `(windows,)`, the column of pixels where each window starts.
        rows, row_weights, row_shares: for each row of `sums`, the row of logits before it, the weight of the one after
            it, and a factor of what is added.
        columns, column_weights: the same for each column of a window.
        column_shares: a factor for each column of `sums`.
        sums: `(rows, width, classes)`.
    """
    windows, h, w, classes = logits.shape
    line = np.empty((w, classes), np.float32)
    for window in range(windows):
        for y in range(rows.size):
            above = logits[window, rows[y]]
            below = logits[window, min(rows[y] + 1, h - 1)]
            v = row_weights[y]
            for x in range(w):
                for c in range(classes):
                    line[x, c] = (above[x, c] + v * (below[x, c] - above[x, c])) * row_shares[y]
            for x in range(columns.size):
                left = line[columns[x]]
                right = line[min(columns[x] + 1, w - 1)]
                pixel = sums[y, lefts[window] + x]
                share = column_shares[lefts[window] + x]
                t = column_weights[x] * share
                s = share - t
                for c in range(classes):
                    pixel[c] += s * left[c] + t * right[c]


@compiled()
def label_pixels(sums: Logits, ids: ClassIds) -> None:
    """Fill `ids` `(rows, width)` with the class of the highest of `sums` `(rows, width, classes)`; the first wins.

    Neighbours mostly have the same class. To see that no other class reaches it is faster than to look for the highest.
    """
    height, width, classes = sums.shape
    winner = 0
    for y in range(height):
        for x in range(width):
            highest = sums[y, x, winner]
            reached = np.int32(0)
            for c in range(classes):
                reached += np.int32(sums[y, x, c] >= highest)
            if reached != 1:
                winner = 0
                highest = sums[y, x, 0]
                for c in range(classes):
                    if sums[y, x, c] > highest:
                        highest = sums[y, x, c]
                        winner = c
            ids[y, x] = winner
