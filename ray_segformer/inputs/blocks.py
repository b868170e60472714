"""Datasets of many rows in small blocks.

Ray Data runs a task for each block. Where the order of rows is preserved, what a task makes waits in the object store
until all tasks before it are done: of large blocks the store is soon full, and then one task runs at a time.
`ray.data.from_items` makes 200 blocks of however many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import ray

from ray_segformer.air import installed

ROWS_PER_BLOCK = 64  # of images; preprocessed, these take 50 MB
_USUAL_BLOCKS = 200
_MOST_BLOCKS = 2**15  # a block costs the driver a millisecond, and ten kilobytes
_ROWS_PER_OBJECT = 2**16


def small_blocks(rows: pa.Table) -> ray.data.Dataset:
    """The rows of a table, in order: 64 a block, fewer where they make no 200 blocks, more where they are millions.

    The object store holds the table, in a few large objects, and blocks the numbers of their rows.
    """
    step = max(1, min(ROWS_PER_BLOCK, math.ceil(len(rows) / _USUAL_BLOCKS)), math.ceil(len(rows) / _MOST_BLOCKS))
    parts = [ray.put(rows.slice(start, _ROWS_PER_OBJECT)) for start in range(0, max(1, len(rows)), _ROWS_PER_OBJECT)]
    numbers = installed.from_items(list(range(len(rows))), math.ceil(len(rows) / step))
    read: Callable[..., pa.Table] = _rows_of  # Ray's types know of no other arguments
    return numbers.map_batches(read, batch_format="pyarrow", batch_size=None, fn_kwargs={"parts": parts})


def _rows_of(numbers: pa.Table, parts: list[ray.ObjectRef]) -> pa.Table:
    """The rows of ascending numbers."""
    if not len(numbers):
        return ray.get(parts[0]).slice(0, 0)
    part, row = np.divmod(numbers.column(0).to_numpy(), _ROWS_PER_OBJECT)
    return pa.concat_tables([ray.get(parts[each]).take(pa.array(row[part == each])) for each in np.unique(part)])
