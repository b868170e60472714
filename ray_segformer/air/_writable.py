"""Copies of read-only batches. Ray Data hands out read-only views of the object store."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


def writable(batch: Any) -> Any:
    """Return the batch with a copy of each read-only array in it: whole columns, or arrays in cells.

    Arrays that are writable already are not copied.

    Args:
        batch: an array, a dict of arrays or a DataFrame.
    """
    if isinstance(batch, pd.DataFrame):
        # pandas allows assignments to plain columns of any frame. Only arrays inside cells are read-only views.
        frame = batch.assign()
        for position, dtype in enumerate(batch.dtypes):
            if isinstance(dtype, np.dtype) and dtype.kind == "O":
                cells = _writable_array(batch.iloc[:, position].to_numpy())
                frame.isetitem(position, pd.Series(cells, batch.index, dtype=object))
        return frame
    if isinstance(batch, dict):
        return {name: _writable_array(column) for name, column in batch.items()}
    return _writable_array(batch)


def _writable_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype == object:
        cells = np.empty_like(array)
        for index, cell in np.ndenumerate(array):
            cells[index] = _writable_array(cell) if isinstance(cell, np.ndarray) else cell
        return cells
    return array if array.flags.writeable else array.copy()
