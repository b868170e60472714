"""Datasets of many rows in small blocks.

Ray Data runs a task for each block. If the order of rows is preserved, the output of a task waits in the object store
until all earlier tasks are done. Large blocks soon fill the store, and then only one task runs at a time.
`ray.data.from_items` makes 200 blocks by default, so with many rows its blocks are large.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import ray

from ray_segformer.air import installed

ROWS_PER_BLOCK = 128  # preprocessed, 128 images take 100 MB; the driver works 15 ms for each block
_MIN_BLOCKS = 200
_MAX_BLOCKS = 2**15  # a block costs the driver a millisecond and ten kilobytes
_ROWS_PER_OBJECT = 2**16


def small_blocks(rows: pa.Table, most: int = ROWS_PER_BLOCK) -> ray.data.Dataset:
    """Return the rows of a table, in order, as a dataset of blocks of at most `most` rows.

    Blocks are smaller if there would be fewer than 200 of them, and larger if there would be more than 32768. The
    object store holds the table in a few large objects. A block holds only the numbers of its rows.
    """
    step = max(1, min(most, math.ceil(len(rows) / _MIN_BLOCKS)), math.ceil(len(rows) / _MAX_BLOCKS))
    parts = [ray.put(rows.slice(start, _ROWS_PER_OBJECT)) for start in range(0, max(1, len(rows)), _ROWS_PER_OBJECT)]
    numbers = installed.from_items(list(range(len(rows))), math.ceil(len(rows) / step))
    read: Callable[..., pa.Table] = _rows_of  # Ray's type of this argument allows no `parts`
    return numbers.map_batches(read, batch_format="pyarrow", batch_size=None, fn_kwargs={"parts": parts})


def spread(rows: int, count: int) -> list[int]:
    """Return the numbers of `count` rows that are evenly spread, the first and the last among them; of all if fewer."""
    return sorted({int(place) for place in np.linspace(0, rows - 1, min(rows, count)).round()})


def _rows_of(numbers: pa.Table, parts: list[ray.ObjectRef[pa.Table]]) -> pa.Table:
    """Return the rows with the given numbers, which ascend, from a table in parts of `_ROWS_PER_OBJECT`."""
    if not len(numbers):
        return ray.get(parts[0]).slice(0, 0)
    part_of, row_of = np.divmod(numbers.column(0).to_numpy(), _ROWS_PER_OBJECT)
    return pa.concat_tables(
        [ray.get(parts[part]).take(pa.array(row_of[part_of == part])) for part in np.unique(part_of)]
    )
