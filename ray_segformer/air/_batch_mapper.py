"""`BatchMapper` as Ray 2.6.3 had it, which Ray removed in 2.24. It also accepts read-only batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd

from ray_segformer.air._writable import rows_from_0, writable
from ray_segformer.air.installed import BatchFormat, Preprocessor

# What `batch_size="default"` meant for Dataset.map_batches in Ray 2.6, although its BatchMapper documented 4096.
# Newer versions of Ray have no "default".
_DEFAULT_BATCH_SIZE = 1024


class BatchMapper(Preprocessor):
    """A preprocessor that applies a function to batches. It has nothing to fit.

        BatchMapper(lambda df: df.drop(columns="y"), batch_format="pandas").transform(dataset)

    It mirrors `ray.data.preprocessors.BatchMapper` of Ray 2.6.3. The function may write into its batch: if Ray hands
    out a read-only view of the object store, the function gets a copy.

    Args:
        fn: a function from DataFrame to DataFrame ("pandas"), or from an array or dict of arrays to the same ("numpy").
        batch_format: "pandas" or "numpy".
        batch_size: the most rows that `fn` gets at once; None for whole blocks; "default" is 1024.

    Raises:
        ValueError: `batch_format` is neither "pandas" nor "numpy".
    """

    _is_fittable = False
    _of_dataset = False  # whether it transforms a dataset, and not a batch of the user's own

    def __init__(
        self,
        fn: Callable[[Any], Any],
        batch_format: BatchFormat | str | None,
        batch_size: int | Literal["default"] | None = "default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if batch_format not in (BatchFormat.PANDAS, BatchFormat.NUMPY):
            raise ValueError("BatchMapper only supports 'pandas' or 'numpy' batch format.")
        self.batch_format = batch_format
        self.batch_size = batch_size
        self.fn = fn

    def _transform(self, ds: Any, *args: Any, **kwargs: Any) -> Any:
        mapper = copy.copy(self)
        mapper._of_dataset = True
        return super(BatchMapper, mapper)._transform(ds, *args, **kwargs)

    def _transform_numpy(self, np_data: np.ndarray | dict[str, np.ndarray]) -> Any:
        return self.fn(writable(np_data))

    def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
        return self.fn(writable(rows_from_0(df) if self._of_dataset else df))

    def _determine_transform_to_use(self) -> BatchFormat:
        return BatchFormat(self.batch_format)

    def _get_transform_config(self) -> dict[str, Any]:
        return {"batch_size": _DEFAULT_BATCH_SIZE if self.batch_size == "default" else self.batch_size}

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(fn={getattr(self.fn, '__name__', self.fn)})"
