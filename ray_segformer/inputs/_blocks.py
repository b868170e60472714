"""Datasets of many rows in small blocks.

Ray Data runs a task for each block. If the order of rows is preserved, the output of a task waits in the object store
until all earlier tasks are done. Large blocks soon fill the store, and then only one task runs at a time.
`ray.data.from_items` makes 200 blocks by default, so with many rows its blocks are large.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_segformer.air import installed

ROWS_PER_BLOCK = 128  # preprocessed, 128 images take 100 MB; the driver works 15 ms for each block
_MIN_BLOCKS = 200
_MAX_BLOCKS = 2**15  # a block costs the driver a millisecond and ten kilobytes
_ROWS_PER_OBJECT = 2**16


def small_blocks(
    rows: pa.Table, begins: npt.NDArray[np.bool_] | None = None, most: int = ROWS_PER_BLOCK
) -> ray.data.Dataset:
    """Return the rows of a table, in order, as a dataset of blocks of at most `most` rows.

    Blocks are smaller if there would be fewer than 200 of them, and larger if there would be more than 32768. The
    object store holds the table in a few large objects. A block holds only the numbers of its rows.

    Args:
        rows: the rows.
        begins: bool `(N,)`, before which rows a block should end, if it can. Default: anywhere.
        most: the most rows of a block, if there are not too many. Default: 128.
    """
    step = max(1, min(most, math.ceil(len(rows) / _MIN_BLOCKS)), math.ceil(len(rows) / _MAX_BLOCKS))
    parts = [ray.put(rows.slice(start, _ROWS_PER_OBJECT)) for start in range(0, max(1, len(rows)), _ROWS_PER_OBJECT)]
    places = np.arange(len(rows)) if begins is None else np.flatnonzero(begins)
    blocks, first = list[dict[str, int]](), 0
    while first < len(rows) or not blocks:
        end = _end_of_block(places, first, step, len(rows))
        blocks.append({"first": first, "end": end})
        first = end
    read: Callable[..., pa.Table] = _rows_of  # Ray's type of this argument allows no `parts`
    items = installed.from_items(blocks, len(blocks))
    return items.map_batches(read, batch_format="pyarrow", batch_size=None, fn_kwargs={"parts": parts})


def _end_of_block(places: npt.NDArray[np.int64], first: int, step: int, rows: int) -> int:
    """Return where a block ends: at one of `places` after about `step` rows if it can, and not after more than 128."""
    most = min(first + max(step, ROWS_PER_BLOCK), rows)
    ends = places[np.searchsorted(places, first, "right") : np.searchsorted(places, most, "right")]
    late = ends[np.searchsorted(ends, first + step) :]
    if len(late):
        return int(late[0])
    return int(ends[-1]) if len(ends) and most < rows else most


def spread(rows: int, count: int) -> list[int]:
    """Return the numbers of `count` rows that are evenly spread, the first and the last among them; of all if fewer."""
    return sorted({int(place) for place in np.linspace(0, rows - 1, min(rows, count)).round()})


def _rows_of(blocks: pa.Table, parts: list[ray.ObjectRef[pa.Table]]) -> pa.Table:
    """Return the rows of blocks, from `first` to before `end`, out of a table in parts of `_ROWS_PER_OBJECT`."""
    tables = [ray.get(parts[0]).slice(0, 0)]
    for block in blocks.to_pylist():
        part_of, row_of = np.divmod(np.arange(block["first"], block["end"]), _ROWS_PER_OBJECT)
        tables += [ray.get(parts[part]).take(pa.array(row_of[part_of == part])) for part in np.unique(part_of)]
    return pa.concat_tables(tables)
