"""Batches that may be written into: Ray Data hands out read-only views of the object store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def writable(batch: Any) -> Any:
    """`batch`, with a copy in place of every array (in columns or in their cells) that is a read-only view.

    Args:
        batch: an array, a dict of arrays or a DataFrame.
    """
    if isinstance(batch, pd.DataFrame):
        # Plain columns can be assigned to in any frame; only arrays inside of cells are views.
        frame = batch.assign()
        for position, dtype in enumerate(batch.dtypes):
            if isinstance(dtype, np.dtype) and dtype.kind == "O":
                cells = _writable_array(batch.iloc[:, position].to_numpy())
                frame.isetitem(position, pd.Series(cells, batch.index, dtype=object))
        return frame
    if isinstance(batch, dict):
        return {name: _writable_array(column) for name, column in batch.items()}
    return _writable_array(batch)


def _writable_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        cells = np.empty_like(array)
        for index, cell in np.ndenumerate(array):
            cells[index] = _writable_array(cell) if isinstance(cell, np.ndarray) else cell
        return cells
    return array if array.flags.writeable else array.copy()
