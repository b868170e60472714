"""The columns of a batch: images and pixel values by name, errors by row, and predictions as Arrow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from PIL import Image

from ray_segformer.air import installed
from ray_segformer.images import ImageError, cells, object_array


class RowError(RuntimeError):
    """A row of a batch raised an unexpected exception. The message names the row and the exception."""


def as_arrays(batch: Any) -> Any:
    """Return a batch with arrays in place of a dict's lists, such as of paths or of Pillow's images.

    Raises:
        RuntimeError: `batch` is of another type. Ray's `Predictor` raises the same.
        ValueError: a column is neither a list nor an array, columns have different lengths, or two columns have the
            same name.
    """
    if isinstance(batch, dict):
        columns = {name: _as_array(name, column) for name, column in batch.items()}
        rows = {name: len(column) for name, column in columns.items()}
        if len({*rows.values()}) > 1:
            raise ValueError(f"all columns of a batch must have the same number of rows; these have {rows}")
        return columns
    names = pd.Index(batch.columns if isinstance(batch, pd.DataFrame) else getattr(batch, "column_names", ()))
    if not names.is_unique:
        twice = ", ".join(map(str, names[names.duplicated()].unique()))
        raise ValueError(f"several columns of a batch are called {twice}; rename all but one")
    if not isinstance(batch, (np.ndarray, pd.DataFrame, pa.Table)) or batch.shape == ():  # an array of one text
        raise RuntimeError(
            f"Invalid input data type of {type(batch)}; a batch is a dict such as {{'image': ['a.jpg', 'b.jpg']}}, an "
            "array (N, H, W, 3), a DataFrame or an Arrow table"
        )
    return batch


def _as_array(name: str, column: Any) -> npt.NDArray[Any]:
    if isinstance(column, (list, tuple)):
        return object_array(column)
    column = column.to_numpy() if isinstance(column, pd.Series) else column
    if not isinstance(column, np.ndarray) or not column.ndim:
        advice = f"give {name}.numpy()" if hasattr(column, "numpy") else "of one cell, give a list of it"
        raise ValueError(f"the column {name!r} is a {type(column).__name__}, not a list or an array; {advice}")
    return column


def name_column(
    array: npt.NDArray[Any], image_column: str, size: tuple[int, int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Name the only column of a batch that came as a bare array.

    Ray hands over a dataset of one column in this way. Rows of shape `(3, H, W)` become `pixel_values`, unless
    `image_column` is "pixel_values". All other rows become images.

    Args:
        array: `(N, ...)`, or an object array `(N,)`.
        image_column: the name for images.
        size: height and width of the preprocessor's pixel values, which are uint8. Default: they vary.

    Raises:
        ValueError: the array looks like a single image, or like images with their channels first.
    """
    check_many(array)
    if array.dtype == object:
        shape = np.shape(array[0]) if len(array) and isinstance(array[0], np.ndarray) else ()
    else:
        shape = array.shape[1:]
    if image_column != "pixel_values" and len(shape) == 3 and shape[0] == 3 and shape[-1] not in (1, 3, 4):
        if size is not None and array.dtype == np.uint8 and shape[1:] != size:
            raise ValueError(
                f"an array of shape {array.shape} counts as pixel values of the preprocessor, but those are (N, 3, "
                f"{size[0]}, {size[1]}); give images as (N, H, W, 3)"
            )
        return {"pixel_values": array}
    return {image_column: array}


def check_many(images: Any) -> None:
    """Check that a column of images is not a single image.

    An array `(N, H, 3)` is more likely one RGB image than N grey images that are 3 pixels wide.

    Raises:
        ValueError: it looks like a single image.
    """
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim == 3 and images.shape[-1] in (3, 4):
        raise ValueError(
            f"an array of shape {images.shape} is one image or many grey ones; give a batch as (N, H, W, 3)"
        )


def is_preprocessed(batch: Mapping[str, Any], image_column: str) -> bool:
    """Return whether a batch has `pixel_values` that a preprocessor made.

    If `image_column` is "pixel_values", the column holds raw images unless the batch also has `original_size`.

    Args:
        batch: a dict of arrays or a DataFrame.
        image_column: the name of images.

    Raises:
        ValueError: `pixel_values` holds raw images, but `image_column` is another name.
    """
    if "pixel_values" not in batch or "original_size" in batch:
        return "pixel_values" in batch
    if image_column == "pixel_values":
        return False
    first = next((cell for cell in cells(batch["pixel_values"]) if cell is not None), None)
    if isinstance(first, np.ndarray):
        raw = first.dtype == np.uint8 and first.ndim == 3 and first.shape[-1] in (3, 4) and first.shape[0] != 3
    else:
        raw = isinstance(first, (bytes, bytearray, memoryview, str, os.PathLike, Mapping, Image.Image))
    if raw:
        what = f"arrays {first.shape}" if isinstance(first, np.ndarray) else f"{type(first).__name__} cells"
        raise ValueError(
            f"the column 'pixel_values' holds raw images ({what}), not pixel values (3, height, width); name it with "
            f'image_column="pixel_values" (it is {image_column!r})'
        )
    return True


def row_error_text(row: int, path: Any, why: Any) -> str:
    """Return the text of the `error` column for a row. `ray_segformer.images.cause_of` reads it."""
    return f"row {row} of the batch" + (f" ({path})" if path else "") + f": {why}"


def error_with_path(path: Any, error: Exception) -> ImageError | RowError:
    """Return an exception whose message also names the image: an `ImageError` if `error` is one, else a `RowError`."""
    return _named(f"{path}: ", error)


def _named(name: str, error: Exception) -> ImageError | RowError:
    if isinstance(error, ImageError):
        return ImageError(f"{name}{error}")
    return RowError(name + ": ".join(filter(None, (type(error).__name__, str(error)))))


class RowErrors:
    """The errors of a batch's rows, which are raised or kept.

    Args:
        batch: the batch.
        rows: the number of its rows.
        on_error: "raise" or "keep".

    Raises:
        ValueError: errors are kept, and the column `error` of the batch holds other values than text and nulls.

    Attributes:
        before: why each row failed in an earlier stage, by the column `error`; None if it did not.
        texts: why each row failed, if errors are kept; else None.
    """

    def __init__(self, batch: Mapping[str, Any], rows: int, on_error: str) -> None:
        self._paths = paths_of(batch, rows)
        self._keep = on_error == "keep"
        found = errors_of(batch, rows)
        own = next((each for each in found if not isinstance(each, (str, type(None)))), None)
        if own is not None and self._keep:
            raise ValueError(
                f"the column 'error' holds {own!r}; with on_error=\"keep\", it is the text that says why a row failed, "
                "or null; give a column of your own another name"
            )
        self.before: list[str | None] = found if own is None else [None] * rows
        self.texts: list[str | None] = list(self.before) if self._keep else [None] * rows

    def add(self, row: int, error: Exception, *, path: Any = None, fatal: bool = False) -> None:
        """Keep the exception of a row, or raise it with the name of the row.

        Args:
            row: the number of the row.
            error: the exception.
            path: the path of the row's image; None for what the batch says.
            fatal: whether to raise it in any case. A MemoryError always is: the next rows need memory, too.

        Raises:
            ImageError: `error` is one.
            RowError: `error` is any other exception.
        """
        problem = _named(row_error_text(row, path or self._paths[row], ""), error)
        if fatal or isinstance(error, MemoryError):
            raise problem from error
        if not self._keep:
            raise type(problem)(f'{problem}. Pass on_error="keep" to keep such rows.') from error
        self.texts[row] = str(problem)


def paths_of(batch: Mapping[str, Any], rows: int) -> list[Any]:
    """Return the `path` column of a batch, which errors name. Without that column, all paths are None."""
    return list(cells(batch["path"])) if "path" in batch else [None] * rows


def errors_of(batch: Mapping[str, Any], rows: int) -> list[str | None]:
    """Return the `error` column of a batch, None for rows without an error. Without that column, all are None."""
    found = list(cells(batch["error"])) if "error" in batch else [None] * rows
    is_nan = (isinstance(error, (float, np.floating)) and np.isnan(error) for error in found)  # pandas' null
    return [
        None if nan or error is None or error is pd.NA or (isinstance(error, str) and not error) else error
        for error, nan in zip(found, is_nan, strict=True)
    ]


def labels_of(batch: Mapping[str, Any]) -> Any:
    """Return the `labels` column of a batch; None without one, or if it is the user's own and holds no class ids.

    Class ids are whole numbers in arrays `(H, W)`, or null.
    """
    column = batch.get("labels")
    first = next((cell for cell in cells(column) if cell is not None), None) if column is not None else None
    return column if first is None or (np.ndim(first) == 2 and np.asarray(first).dtype.kind in "biu") else None


def consumed_for(predictions: Any) -> set[str]:
    """Return the columns of a batch that its predictions replace. All others stay, also `labels` of the user's own."""
    names = predictions.column_names if isinstance(predictions, pa.Table) else predictions
    return {"pixel_values", "original_size", *(["labels"] if "loss" in names else [])}


def error_column(errors: list[str | None]) -> npt.NDArray[Any]:
    """Return errors as a column: an object array `(N,)` of text and nulls. It is the reverse of `errors_of`."""
    return object_array(installed.NULL_TEXT if error is None else error for error in errors)


def stack(arrays: Sequence[Any], dtype: Any, empty_shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return arrays as a column: `(N, ...)` if their shapes agree, else an object array `(N,)` of them.

    A column of one row is a view of its array.

    Args:
        arrays: one array, or None, for each row.
        dtype: the dtype of a column without rows.
        empty_shape: the shape of a row, for a column without rows.
    """
    if not arrays:
        return np.empty((0, *empty_shape), dtype)
    if any(array is None for array in arrays) or len({array.shape for array in arrays}) > 1:
        return object_array(arrays)
    if len(arrays) == 1:  # may be huge, so it is not copied
        only: npt.NDArray[Any] = arrays[0][None]
        return only
    return np.stack(arrays)


def with_other_columns(predictions: Any, batch: Any, consumed: set[str]) -> Any:
    """Return predictions with the columns of their batch that are neither predicted nor consumed.

    Args:
        predictions: of the type of `batch`. Unless that is a table, it is changed.
        batch: a dict of arrays, an array, a DataFrame or an Arrow table.
        consumed: names of columns.
    """
    if isinstance(batch, pa.Table):
        for name in batch.column_names:
            if name not in consumed and name not in predictions.column_names:
                predictions = predictions.append_column(batch.schema.field(name), batch.column(name))
    elif not isinstance(batch, np.ndarray):
        for name in batch:
            if name not in consumed and name not in predictions:
                predictions[name] = batch[name].array if isinstance(batch, pd.DataFrame) else batch[name]
    return predictions


def predictions_to_arrow(predictions: Any, mask_dtype: Any) -> pa.Table:
    """Return predictions as an Arrow table, whose `segmentation` and `confidence` may be null.

    Args:
        predictions: a dict of arrays or a DataFrame.
        mask_dtype: the dtype of `segmentation`, which matters if all rows are null.
    """
    columns = {}
    for name in predictions:
        values = predictions[name]
        values = values.to_numpy() if isinstance(values, pd.Series) else values
        if name in ("segmentation", "confidence"):
            dtype = mask_dtype if name == "segmentation" else np.float32
            columns[name] = installed.nullable_tensor_array(list(values), dtype, ndim=2)
        elif name == "error":
            columns[name] = pa.array(errors_of({name: values}, len(values)), pa.string())
        else:
            columns[name] = installed.convert_to_arrow({name: values}).column(0)
    return pa.table(columns)
