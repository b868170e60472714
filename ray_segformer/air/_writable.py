"""Batches as Ray 2.6 handed them out: writable, and in pandas with NumPy's dtypes and rows that count from 0.

Today's Ray Data hands out read-only views of the object store, columns of Arrow's dtypes, and indices of its input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ray_segformer.air.installed import convert_to_pandas


def writable(batch: Any) -> Any:
    """Return the batch with a copy of each read-only array in it: whole columns, or arrays in cells.

    Arrays that are writable already are not copied. Columns of a DataFrame that have Arrow's dtypes get NumPy's, as
    `pyarrow.Table.to_pandas` gives them: `to_numpy()` of several Arrow columns is an array of objects. Text is objects,
    and its nulls are None, as before pandas 3.

    Args:
        batch: an array, a dict of arrays or a DataFrame.
    """
    if isinstance(batch, pd.DataFrame):
        frame = batch.assign()
        for position in range(batch.shape[1]):
            column = batch.iloc[:, position]
            if isinstance(column.dtype, pd.ArrowDtype):
                column = pa.chunked_array(pa.array(column)).to_pandas().copy().set_axis(batch.index)
                frame.isetitem(position, column)
            if isinstance(column.dtype, pd.StringDtype) and column.dtype.na_value is np.nan:  # the text of pandas 3
                column = pd.Series(column.to_numpy(dtype=object, na_value=None), batch.index, dtype=object)
            # pandas allows assignments to its other columns. Only arrays inside cells are read-only views.
            if isinstance(column.dtype, np.dtype) and column.dtype.kind == "O":
                cells = _writable_array(column.to_numpy())
                frame.isetitem(position, pd.Series(cells, batch.index, dtype=object))
        return frame
    if isinstance(batch, dict):
        return {name: _writable_array(column) for name, column in batch.items()}
    return _writable_array(batch)


def rows_from_0(batch: Any) -> Any:
    """Return a batch of a dataset with the index 0, 1, 2 and so on. An Arrow table becomes a DataFrame.

    Ray 2.6 handed out such DataFrames. Today's Ray Data keeps the index of a frame that `ray.data.from_pandas` got.
    pandas aligns by index, so it would assign a Series that a function makes to other rows. Some of today's
    preprocessors return Arrow tables where those of Ray 2.6 returned DataFrames.
    """
    batch = convert_to_pandas(batch) if isinstance(batch, pa.Table) else batch
    return batch.reset_index(drop=True) if isinstance(batch, pd.DataFrame) else batch


def _writable_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype == object:
        cells = np.empty_like(array)
        for index, cell in np.ndenumerate(array):
            cells[index] = _writable_array(cell) if isinstance(cell, np.ndarray) else cell
        return cells
    return array if array.flags.writeable else array.copy()
