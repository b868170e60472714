"""`BatchMapper`, which Ray removed in 2.24, as Ray 2.6.3 had it, for read-only batches too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd

from ray_segformer.air.installed import BatchFormat, Preprocessor

# What `batch_size="default"` of Dataset.map_batches meant in Ray 2.6; today's Ray has no such word.
_DEFAULT_BATCH_SIZE = 4096


class BatchMapper(Preprocessor):
    """A preprocessor that applies a function to batches. It has nothing to fit.

        BatchMapper(lambda df: df.drop(columns="y"), batch_format="pandas").transform(dataset)

    Mirrors `ray.data.preprocessors.BatchMapper` of Ray 2.6.3. The function may write into its batch: where
    Ray hands out a read-only view of the object store, it gets a copy.

    Args:
        fn: from DataFrame to DataFrame ("pandas"), or from an array or dict of arrays to the same ("numpy").
        batch_format: "pandas" or "numpy".
        batch_size: rows handed to `fn` at once at most; None for whole blocks; "default" is 4096.

    Raises:
        ValueError: another batch format.
    """

    _is_fittable = False

    def __init__(
        self,
        fn: Callable[[Any], Any],
        batch_format: BatchFormat | str | None,
        batch_size: int | Literal["default"] | None = "default",
    ):
        super().__init__()
        if batch_format not in (BatchFormat.PANDAS, BatchFormat.NUMPY):
            raise ValueError("BatchMapper only supports 'pandas' or 'numpy' batch format.")
        self.batch_format = batch_format
        self.batch_size = batch_size
        self.fn = fn

    def _transform_numpy(self, np_data: np.ndarray | dict[str, np.ndarray]) -> Any:
        if isinstance(np_data, dict):
            return self.fn({name: _writable(column) for name, column in np_data.items()})
        return self.fn(_writable(np_data))

    def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
        # Plain columns can be assigned to in any frame; only arrays inside of cells are views.
        copies = {name: _writable(df[name].to_numpy()) for name in df.columns if df[name].dtype == object}
        return self.fn(df.assign(**copies))

    def _determine_transform_to_use(self) -> BatchFormat:
        return BatchFormat(self.batch_format)

    def _get_transform_config(self) -> dict[str, Any]:
        return {"batch_size": _DEFAULT_BATCH_SIZE if self.batch_size == "default" else self.batch_size}

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(fn={getattr(self.fn, '__name__', self.fn)})"


def _writable(array: np.ndarray) -> np.ndarray:
    """`array`, or a copy where it (or, in an object array, one of its cells) is a read-only view."""
    if array.dtype == object:
        cells = np.empty_like(array)
        for index, cell in np.ndenumerate(array):
            cells[index] = _writable(cell) if isinstance(cell, np.ndarray) else cell
        return cells
    return array if array.flags.writeable else array.copy()
