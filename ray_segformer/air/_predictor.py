"""`Predictor` as Ray 2.6.3 had it, which Ray removed in 2.56. It also accepts Arrow tables."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from ray_segformer.air.installed import (
    BatchFormat,
    Checkpoint,
    Preprocessor,
    convert_to_arrow,
    convert_to_numpy,
    convert_to_pandas,
)

NumpyBatch: TypeAlias = np.ndarray | dict[str, np.ndarray]
DataBatch: TypeAlias = NumpyBatch | pd.DataFrame | pa.Table

# Looked up by exact type, as in Ray: an instance of a subclass is refused.
_FORMAT_OF_TYPE = {
    np.ndarray: BatchFormat.NUMPY,
    dict: BatchFormat.NUMPY,
    pd.DataFrame: BatchFormat.PANDAS,
    pa.Table: BatchFormat.ARROW,
}


class PredictorNotSerializableException(RuntimeError):  # noqa: N818 (Ray's name)
    """Raised if an instance of a `Predictor` is pickled. Pickle its class and its checkpoint instead."""


class Predictor(abc.ABC):
    """A model, loaded from a checkpoint, that predicts batches.

    A subclass calls `super().__init__(preprocessor)`. It implements `from_checkpoint`, and at least one of
    `_predict_numpy` and `_predict_pandas`. `predict` then accepts any batch type: it applies the preprocessor, converts
    the batch to the format that the subclass implements, and converts the result back to the caller's type.

    It mirrors `ray.train.predictor.Predictor` of Ray 2.6.3.
    """

    def __init__(self, preprocessor: Preprocessor | None = None) -> None:
        self._preprocessor = preprocessor
        self._cast_tensor_columns = False

    @classmethod
    @abc.abstractmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **kwargs: Any) -> Predictor:
        """Load a predictor from `checkpoint`. `kwargs` are the subclass's own options."""
        raise NotImplementedError

    @classmethod
    def from_pandas_udf(cls, pandas_udf: Callable[..., pd.DataFrame]) -> Predictor:
        """Return a predictor that calls `pandas_udf(df, **kwargs)`, a function from DataFrame to DataFrame."""
        predictor: Predictor = pandas_udf_predictor(pandas_udf, Predictor)()
        return predictor

    def get_preprocessor(self) -> Preprocessor | None:
        """Return the preprocessor that `predict` applies first, or None."""
        return self._preprocessor

    def set_preprocessor(self, preprocessor: Preprocessor | None) -> None:
        """Replace the preprocessor that `predict` applies first. None means no preprocessing."""
        self._preprocessor = preprocessor

    @classmethod
    def preferred_batch_format(cls) -> BatchFormat:
        """Return the format to predict if a subclass implements both methods. The default is pandas."""
        return BatchFormat.PANDAS

    @classmethod
    def _batch_format_to_use(cls) -> BatchFormat:
        has_pandas = cls._predict_pandas is not Predictor._predict_pandas
        has_numpy = cls._predict_numpy is not Predictor._predict_numpy
        if has_pandas and has_numpy:
            return cls.preferred_batch_format()
        if has_pandas:
            return BatchFormat.PANDAS
        if has_numpy:
            return BatchFormat.NUMPY
        raise NotImplementedError(
            f"Predictor {cls.__name__} must implement at least one of `_predict_pandas` and `_predict_numpy`."
        )

    def _set_cast_tensor_columns(self) -> None:
        """Set a flag that subclasses may read. `BatchPredictor` calls this if Ray Data casts tensor columns."""
        self._cast_tensor_columns = True

    def predict(self, data: DataBatch, **kwargs: Any) -> DataBatch:
        """Predict one batch.

        Args:
            data: a dict of arrays, a single array, a DataFrame or an Arrow table. `_predict_pandas` gets a single array
                as the column `__value__`. `_predict_numpy` gets a DataFrame of one column as a bare array.
            kwargs: arguments for `_predict_numpy` or `_predict_pandas`.

        Returns:
            The predictions, in the type of `data`.

        Raises:
            RuntimeError: `data` has another type.
            NotImplementedError: the subclass never called `Predictor.__init__`, or implements neither method.
        """
        if not hasattr(self, "_preprocessor"):
            raise NotImplementedError("Subclasses of Predictor must call Predictor.__init__(preprocessor).")
        batch_format = _FORMAT_OF_TYPE.get(type(data))
        if batch_format is None:
            raise RuntimeError(f"Invalid input data type of {type(data)}, supported types: {list(_FORMAT_OF_TYPE)}")
        if isinstance(data, pa.Table):
            data = _without_dictionaries(data)
        if self._preprocessor is not None:
            data = self._preprocessor.transform_batch(data)
        predicted_format = self._batch_format_to_use()
        if predicted_format == BatchFormat.PANDAS:
            predictions = self._predict_pandas(convert_to_pandas(data), **kwargs)
        else:
            predictions = self._predict_numpy(convert_to_numpy(data), **kwargs)
        if batch_format == predicted_format:
            return predictions
        if batch_format == BatchFormat.PANDAS:
            return convert_to_pandas(predictions)
        if batch_format == BatchFormat.ARROW:
            return self._to_arrow(predictions)
        return convert_to_numpy(predictions)

    def _to_arrow(self, predictions: NumpyBatch | pd.DataFrame) -> pa.Table:
        if isinstance(predictions, pd.DataFrame):
            return pa.Table.from_pandas(predictions, preserve_index=False)
        if isinstance(predictions, np.ndarray):
            predictions = {"__value__": predictions}
        return convert_to_arrow(predictions)

    def _predict_pandas(self, data: pd.DataFrame, **kwargs: Any) -> pd.DataFrame:
        """Predict a DataFrame. A subclass that works on pandas implements this."""
        raise NotImplementedError

    def _predict_numpy(self, data: NumpyBatch, **kwargs: Any) -> NumpyBatch:
        """Predict an array or a dict of arrays. A subclass that works on NumPy implements this."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        raise PredictorNotSerializableException(
            "Predictor instances are not serializable. Instead, serialize a checkpoint and initialize the "
            "Predictor with Predictor.from_checkpoint."
        )


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """Decode dictionary-encoded columns: pyarrow's conversion to NumPy gives their nulls the value of another row."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
    return table


def pandas_udf_predictor(pandas_udf: Callable[..., pd.DataFrame], base: type[Any]) -> type[Any]:
    """Return a subclass of `base`, a Predictor class, that predicts with `pandas_udf`."""

    class PandasUDFPredictor(base):  # type: ignore[misc] # The base class is known only at run time.
        @classmethod
        def from_checkpoint(cls, checkpoint: Checkpoint, **kwargs: Any) -> PandasUDFPredictor:
            return PandasUDFPredictor()

        def _predict_pandas(self, data: pd.DataFrame, **kwargs: Any) -> pd.DataFrame:
            return pandas_udf(data, **kwargs)

    return PandasUDFPredictor
