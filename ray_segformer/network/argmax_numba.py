"""`upsampled_argmax` on a CPU, compiled by numba.

A bilinear value lies between its four corners. So in a cell, the pixels between two neighbouring rows and two
neighbouring columns of the logits, only those classes can win whose highest corner reaches the lowest corner of
some other class. Most cells have the same winner at all corners and need no arithmetic, the others have two or
three candidates. What remains is to read the logits once, for the winner at each of their own pixels.

The kernels run without the GIL on a band of rows each, in Python's threads: numba's own threads and torch's
OpenMP would wait for each other actively.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

# The number of logits plus pixels from which several threads pay.
_WORTH_THREADS = 1_000_000


def upsampled_argmax_numba(
    logits: np.ndarray, size: tuple[int, int], confidence: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """See `upsampled_argmax`; the logits are a contiguous array, and have been checked.

    Runs in as many threads as torch uses (`torch.get_num_threads()`). The first call compiles, for seconds; numba
    keeps the result on disk, beside this file or in the user's cache directory, and in memory if neither is writable.

    Returns:
        The class ids, and the probabilities or None.
    """
    height, width = size
    classes = logits.shape[2]
    rows, row_weights = _sources(logits.shape[0], height)
    columns, column_weights = _sources(logits.shape[1], width)
    # Where a cell's pixels begin, and the end of the last one's.
    cells = np.concatenate([[0], np.flatnonzero(np.diff(columns)) + 1, [width]]).astype(np.int32)
    where = rows, row_weights, columns, column_weights, cells
    ids = np.empty(size, np.uint8 if classes <= 255 else np.uint16)
    probability = np.empty(size, np.float32) if confidence else None

    def run(first: int, last: int) -> None:
        _label(logits, *where, first, last, ids)
        if probability is not None:
            # What is left out of the sum adds up to e^-14, 8e-7 of the winner.
            _rate(logits, *where, first, last, ids, np.float32(math.log(classes) + 14), probability)

    threads = torch.get_num_threads() if logits.size + ids.size >= _WORTH_THREADS else 1
    if threads == 1:
        run(0, height)
    else:
        bands = min(2 * threads, height)  # two each: they differ in how much there is to do
        edges = [height * band // bands for band in range(bands + 1)]
        list(_pool(threads).map(run, edges[:-1], edges[1:]))
    return ids, probability


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="upsampled_argmax")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool, but not its threads


def _sources(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis, where each of `high` pixels lies in `low` ones, in torch's arithmetic.

    Returns:
        The neighbour before (the neighbour after is the next one, if there is one), int32 `(high,)`, and the
        weight of the neighbour after, float32 `(high,)`.
    """
    scale = np.float32(low) / np.float32(high)
    half = np.float32(0.5)
    position = np.maximum((np.arange(high, dtype=np.float32) + half) * scale - half, np.float32(0))
    before = np.minimum(position.astype(np.int32), low - 1)
    return before, (position - before).astype(np.float32)


def _jit(*fastmath: str) -> Callable[[Callable], Any]:
    # NumPy's error model: division by zero raises nothing.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}

    def compiled(function: Callable) -> Any:
        try:
            return numba.njit(function, cache=True, **options)
        except RuntimeError:  # there is no directory to keep the result in
            return numba.njit(function, **options)

    return compiled


@_jit("nnan", "nsz")  # which let LLVM vectorise the maximum
def _highest(values):
    highest = np.float32(-np.inf)
    for c in range(values.size):
        if values[c] > highest:
            highest = values[c]
    return highest


@_jit()
def _argmax(values):
    highest = _highest(values)
    none = np.int32(values.size)
    first = none
    for c in range(none):  # as a minimum, because a search that ends early is not vectorised
        first = min(first, np.int32(c) if values[c] == highest else none)
    return first if first < none else np.int32(0)  # none: there are NaNs


@_jit()
def _label_row(logits, columns, cells, winners):
    """The winner at those pixels of a row of logits that are a corner of a cell with pixels."""
    done = 0
    for cell in range(cells.size - 1):
        x0 = columns[cells[cell]]
        for x in range(max(x0, done), min(x0 + 2, winners.size)):
            winners[x] = _argmax(logits[x])
        done = x0 + 2


@_jit()
def _label(logits, rows, row_weights, columns, column_weights, cells, first, last, ids):
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
            # Cells whose corners agree, as many as there are in a row.
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
            # The classes that win at a corner bound it well enough, others need not be tried.
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


@_jit("reassoc", "contract")  # which let LLVM vectorise the sum
def _sum_exp(left, right, t, shift, count):
    """The sum of `exp((1 - t) * left + t * right - shift)`, whose exponents are not above 0, but to rounding.

    A series for the rest modulo log(2), within 2e-7, vectorised, where `math.exp` would be called for each.
    """
    total = 0.0  # float64, as there may be many small classes
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
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))  # 2^n, by its bits
        total += np.float64(series * power.view(np.float32))
    return total


@_jit()
def _rate(logits, rows, row_weights, columns, column_weights, cells, first, last, ids, reach, probability):
    """Fill `probability[first:last]`, of the classes in `ids`.

    Classes that are in the whole cell further than `reach` below the winner are left out.
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
