"""The kernels of `upsampled_argmax` on a CPU, compiled by numba.

A cell is the set of pixels between two neighbouring rows and two neighbouring columns of the logits; the four logits
are its corners. A bilinear value lies between the lowest and the highest of its corners. So a class can win in a cell
only if its highest corner reaches the lowest corner of every other class. In most cells all four corners have the same
winner, and no arithmetic is needed. The other cells have two or three candidates. The main cost left is to read all
logits once, to find the winner at each corner.

Both kernels take the same description of the pixels: `rows` and `columns` are the index of the logit before each pixel
along the height and along the width, `row_weights` and `column_weights` the weight of the logit after it, and `cells`
the first pixel of each cell along the width, followed by the width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]
ClassIds = npt.NDArray[np.unsignedinteger[Any]]


def compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles with these of LLVM's fast-math flags, and caches the result if possible."""
    # NumPy's error model: a division by zero raises no error.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}

    def decorated(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(function, cache=True, **options)
        except RuntimeError:  # there is no writable directory for the cache
            return numba.njit(function, **options)

    return decorated


@compiled("nnan", "nsz")  # these flags let LLVM vectorise the maximum
def _highest(values: Logits) -> np.float32:
    highest = np.float32(-np.inf)
    for c in range(values.size):
        if values[c] > highest:
            highest = values[c]
    return highest


@compiled()
def _argmax(values: Logits) -> np.int32:
    highest = _highest(values)
    none = np.int32(values.size)
    first = none
    for c in range(none):  # a minimum over all classes: a loop that stops at the first match is not vectorised
        first = min(first, np.int32(c) if values[c] == highest else none)
    return first if first < none else np.int32(0)  # without a match there are NaNs


@compiled()
def _label_row(logits: Logits, columns: Indices, cells: Indices, winners: Indices) -> None:
    """Fill `winners` for a row of logits `(w, classes)`, only where a logit is the corner of a cell with pixels."""
    done = 0
    for cell in range(cells.size - 1):
        x0 = columns[cells[cell]]
        for x in range(max(x0, done), min(x0 + 2, winners.size)):
            winners[x] = _argmax(logits[x])
        done = x0 + 2


@compiled()
def fill_class_ids(
    logits: Logits,
    rows: Indices,
    row_weights: Weights,
    columns: Indices,
    column_weights: Weights,
    cells: Indices,
    first: int,
    last: int,
    ids: ClassIds,
) -> None:
    """Fill `ids[first:last]`."""
    h, w, classes = logits.shape
    above = np.empty(w, np.int32)
    below = np.empty(w, np.int32)
    candidates = np.empty(classes, np.int32)
    left = np.empty(classes, np.float32)
    right = np.empty(classes, np.float32)
    y1 = -1
    while first < last:
        y0 = rows[first]
        end = first + 1
        while end < last and rows[end] == y0:
            end += 1
        if y0 == y1:
            above, below = below, above
        else:
            _label_row(logits[y0], columns, cells, above)
        y1 = min(y0 + 1, h - 1)
        _label_row(logits[y1], columns, cells, below)

        cell = 0
        while cell < cells.size - 1:
            start = cells[cell]
            x0 = columns[start]
            x1 = min(x0 + 1, w - 1)
            winner = above[x0]
            # Skip over consecutive cells whose corners all have this winner.
            while above[x0] == winner and above[x1] == winner and below[x0] == winner and below[x1] == winner:
                cell += 1
                if cell == cells.size - 1:
                    break
                x0 = columns[cells[cell]]
                x1 = min(x0 + 1, w - 1)
            stop = cells[cell]
            if start < stop:
                for y in range(first, end):
                    ids[y, start:stop] = winner
                continue

            cell += 1
            stop = cells[cell]
            a, b, c, d = logits[y0, x0], logits[y0, x1], logits[y1, x0], logits[y1, x1]
            # The winner has at least this value everywhere in the cell: the highest of the classes' lowest corners.
            # It is enough to try the classes that win at a corner.
            bound = np.float32(-np.inf)
            for k in (above[x0], above[x1], below[x0], below[x1]):
                bound = max(bound, min(min(a[k], b[k]), min(c[k], d[k])))
            count = 0
            for k in range(classes):
                if max(max(a[k], b[k]), max(c[k], d[k])) >= bound:
                    candidates[count] = k
                    count += 1
            for y in range(first, end):
                v = row_weights[y]
                u = np.float32(1) - v
                for i in range(count):
                    k = candidates[i]
                    left[i] = u * a[k] + v * c[k]
                    right[i] = u * b[k] + v * d[k]
                for x in range(start, stop):
                    t = column_weights[x]
                    s = np.float32(1) - t
                    highest = np.float32(-np.inf)
                    winner = above[x0]
                    for i in range(count):
                        value = s * left[i] + t * right[i]
                        if value > highest:
                            highest = value
                            winner = candidates[i]
                    ids[y, x] = winner
        first = end


@compiled("reassoc", "contract")  # these flags let LLVM vectorise the sum
def _sum_exp(left: Logits, right: Logits, t: np.float32, shift: np.float32, count: int) -> float:
    """Return the sum of `exp((1 - t) * left + t * right - shift)` over the first `count` values.

    The exponents are at most 0, up to rounding. `exp` is computed as a power of 2 times a Taylor series of the
    remainder, within 2e-7. LLVM can vectorise this, but not calls of `math.exp`.
    """
    total = 0.0  # float64, because there may be many small summands
    s = np.float32(1) - t
    for i in range(count):
        x = max(s * left[i] + t * right[i] - shift, np.float32(-80))
        n = math.floor(x * np.float32(1 / math.log(2)) + np.float32(0.5))
        r = x - np.float32(n) * np.float32(math.log(2))
        series = np.float32(1 / 720)
        series = series * r + np.float32(1 / 120)
        series = series * r + np.float32(1 / 24)
        series = series * r + np.float32(1 / 6)
        series = series * r + np.float32(1 / 2)
        series = series * r + np.float32(1)
        series = series * r + np.float32(1)
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))  # the bits of the float32 2^n
        total += np.float64(series * power.view(np.float32))
    return total


@compiled()
def fill_probabilities(
    logits: Logits,
    rows: Indices,
    row_weights: Weights,
    columns: Indices,
    column_weights: Weights,
    cells: Indices,
    first: int,
    last: int,
    ids: ClassIds,
    reach: np.float32,
    probability: npt.NDArray[np.float32],
) -> None:
    """Fill `probability[first:last]` with the softmax of the classes in `ids`.

    Classes that are more than `reach` below the winner in the whole cell are left out of the softmax's sum.
    """
    h, w, classes = logits.shape
    corners = np.empty((4, classes), np.float32)
    left = np.empty(classes, np.float32)
    right = np.empty(classes, np.float32)
    while first < last:
        y0 = rows[first]
        y1 = min(y0 + 1, h - 1)
        end = first + 1
        while end < last and rows[end] == y0:
            end += 1
        for cell in range(cells.size - 1):
            start, stop = cells[cell], cells[cell + 1]
            x0 = columns[start]
            x1 = min(x0 + 1, w - 1)
            a, b, c, d = logits[y0, x0], logits[y0, x1], logits[y1, x0], logits[y1, x1]
            k = ids[first, start]
            bound = min(min(a[k], b[k]), min(c[k], d[k])) - reach
            count = 0
            for k in range(classes):
                if max(max(a[k], b[k]), max(c[k], d[k])) >= bound:
                    corners[0, count] = a[k]
                    corners[1, count] = b[k]
                    corners[2, count] = c[k]
                    corners[3, count] = d[k]
                    count += 1
            for y in range(first, end):
                v = row_weights[y]
                u = np.float32(1) - v
                for i in range(count):
                    left[i] = u * corners[0, i] + v * corners[2, i]
                    right[i] = u * corners[1, i] + v * corners[3, i]
                for x in range(start, stop):
                    t = column_weights[x]
                    s = np.float32(1) - t
                    k = ids[y, x]
                    winner = s * (u * a[k] + v * c[k]) + t * (u * b[k] + v * d[k])
                    probability[y, x] = 1 / _sum_exp(left, right, t, winner, count)
        first = end
