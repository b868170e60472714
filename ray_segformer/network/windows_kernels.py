"""The kernel of sliding windows on a CPU, compiled by numba: it adds the upsampled logits of windows, row by row."""

from __future__ import annotations

import numpy as np

from ray_segformer.network.argmax_kernels import Indices, Logits, Weights, compiled


@compiled("contract")  # this flag lets LLVM use one instruction for a multiplication and an addition
def add_windows(
    logits: Logits,
    lefts: Indices,
    rows: Indices,
    row_weights: Weights,
    row_shares: Weights,
    columns: Indices,
    column_weights: Weights,
    pixels: Indices,
    shares: Weights,
    sums: Logits,
) -> None:
    """Add the bilinearly upsampled logits of windows that stand side by side to some of an image's pixels.

    Args:
        logits: `(windows, h, w, classes)`.
        lefts: int32 `(windows,)`, the column of pixels where each window starts.
        rows, row_weights, row_shares: for each row of `sums`, the row of logits before it, the weight of the one after
            it, and a factor of what is added.
        columns, column_weights: the same for each column of a window, without the factor.
        pixels, shares: for each column of `sums`, its column in the image, ascending, and a factor.
        sums: `(rows, columns, classes)`.
    """
    windows, h, w, classes = logits.shape
    line = np.empty((w, classes), np.float32)
    for window in range(windows):
        start = lefts[window]
        first = np.searchsorted(pixels, start)
        last = np.searchsorted(pixels, start + columns.size)
        if first == last:
            continue
        leftmost = columns[pixels[first] - start]
        rightmost = min(columns[pixels[last - 1] - start] + 1, w - 1)
        for y in range(rows.size):
            above = logits[window, rows[y]]
            below = logits[window, min(rows[y] + 1, h - 1)]
            v = row_weights[y]
            for x in range(leftmost, rightmost + 1):
                for c in range(classes):
                    line[x, c] = (above[x, c] + v * (below[x, c] - above[x, c])) * row_shares[y]
            for place in range(first, last):
                x = pixels[place] - start
                left = line[columns[x]]
                right = line[min(columns[x] + 1, w - 1)]
                pixel = sums[y, place]
                t = column_weights[x] * shares[place]
                s = shares[place] - t
                for c in range(classes):
                    pixel[c] += s * left[c] + t * right[c]
