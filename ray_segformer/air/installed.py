"""What the installed Ray has, and where: the only module that knows one version of Ray from another.

| installed Ray | `Predictor` | `BatchMapper` | `BatchPredictor` | `Checkpoint` |
|---|---|---|---|---|
| 2.6 | Ray's | Ray's | Ray's | `ray.air.Checkpoint` |
| 2.7 to 2.55 | Ray's | ours | ours | `ray.train.Checkpoint` |
| 2.56 and newer | ours | ours | ours | `ray.train.Checkpoint` |

A class is `None` here where this package uses its own; `ray_segformer.air` chooses.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import ray
from packaging.version import Version
from ray.data.block import BlockAccessor
from ray.data.preprocessor import Preprocessor

try:
    from ray.data.util.data_batch_conversion import (
        BatchFormat,
        _convert_batch_type_to_numpy,
        _convert_batch_type_to_pandas,
    )
except ImportError:
    from ray.air.util.data_batch_conversion import (  # type: ignore[no-redef,assignment]
        BatchFormat,
        _convert_batch_type_to_numpy,
        _convert_batch_type_to_pandas,
    )

try:
    from ray.data._internal.tensor_extensions.arrow import ArrowVariableShapedTensorArray
except ImportError:
    from ray.air.util.tensor_extensions.arrow import ArrowVariableShapedTensorArray  # type: ignore

try:
    from ray.train.predictor import (  # type: ignore[import-not-found]
        Predictor,
        PredictorNotSerializableException,
    )
except ImportError:
    Predictor = PredictorNotSerializableException = None

HAS_AIR = Version(ray.__version__) < Version("2.7")  # the last Ray with BatchPredictor and dict checkpoints

if HAS_AIR:
    from ray.air.checkpoint import Checkpoint  # type: ignore[import-not-found]
    from ray.data.preprocessors import BatchMapper  # type: ignore[attr-defined]
    from ray.train.batch_predictor import BatchPredictor  # type: ignore[import-not-found]
else:
    from ray.train import Checkpoint

    BatchMapper = BatchPredictor = None

# Ray 2.6 cannot hold a null in a tensor column, nor in a text column whose first value is one, and its
# BatchPredictor hands a predictor's batch straight to that conversion. There, empty values stand for null.
NULL_TENSOR = np.zeros((0, 0), np.uint8) if HAS_AIR else None
NULL_TEXT = "" if HAS_AIR else None

convert_to_numpy = _convert_batch_type_to_numpy
convert_to_pandas = _convert_batch_type_to_pandas

__all__ = [
    "HAS_AIR",
    "NULL_TENSOR",
    "NULL_TEXT",
    "BatchFormat",
    "BatchMapper",
    "BatchPredictor",
    "Checkpoint",
    "Predictor",
    "PredictorNotSerializableException",
    "Preprocessor",
    "at_directory",
    "convert_to_arrow",
    "convert_to_numpy",
    "convert_to_pandas",
    "dict_of",
    "from_items",
    "nullable_tensor_array",
    "without_directory",
]


def at_directory(cls: type[Checkpoint], path: str | os.PathLike) -> Checkpoint:
    """A checkpoint of class `cls` that refers to the local directory `path`.

    Ray 2.6's `Checkpoint.from_directory` would unpickle a `.metadata.pkl` it finds there; this does not.
    """
    path = os.path.abspath(path)  # today's Ray takes a relative one for a URI
    return cls(local_path=path) if HAS_AIR else cls(path)


def without_directory(cls: type[Checkpoint], label: str) -> Checkpoint:
    """A checkpoint of class `cls` whose content is not on this node's disk; `label` is what its repr shows."""
    return cls(data_dict={"path": label}) if HAS_AIR else cls(label, filesystem=pa.fs.LocalFileSystem())


def dict_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The dictionary of Ray 2.6's `Checkpoint.from_dict(...)`, or None for one that holds a directory.

    What `Checkpoint.set_preprocessor` was given is in it as `_preprocessor`, Ray's own name for it.
    """
    if not HAS_AIR:
        return None
    kind, data = checkpoint.get_internal_representation()
    if kind != "data_dict" or "fs_checkpoint" in data:
        return None
    preprocessor = checkpoint.get_preprocessor()
    return data if preprocessor is None else {**data, "_preprocessor": preprocessor}


def convert_to_arrow(batch: dict[str, np.ndarray]) -> pa.Table:
    """A dict of arrays as the Arrow table that Ray Data would make of it (tensor columns included)."""
    return BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()


def from_items(items: list[Any], blocks: int) -> ray.data.Dataset:
    """`ray.data.from_items`, in so many blocks."""
    name = "override_num_blocks"
    if name not in inspect.signature(ray.data.from_items).parameters:
        name = "parallelism"  # what it was called in Ray 2.9 and before
    return ray.data.from_items(items, **{name: max(1, blocks)})


def nullable_tensor_array(arrays: list[np.ndarray | None], dtype: Any, ndim: int) -> pa.ExtensionArray:
    """Arrays of any shapes, and nulls, as one variable-shaped tensor column.

    Ray's own conversion pickles a column that mixes arrays and None, and then cannot put it beside
    a tensor column of another block: one bad row would end the job.

    Args:
        arrays: one array, all with `ndim` dimensions, or None, for every row.
        dtype: the element type, which matters when every row is null.
        ndim: the number of dimensions.
    """
    column = np.empty(len(arrays), object)
    for row, array in enumerate(arrays):
        column[row] = np.zeros((0,) * ndim, dtype) if array is None else array
    tensors = ArrowVariableShapedTensorArray.from_numpy(column)
    fields = [tensors.storage.type.field(i) for i in range(tensors.storage.type.num_fields)]
    storage = pa.StructArray.from_arrays(
        [tensors.storage.field(i) for i in range(len(fields))],
        fields=fields,
        mask=pa.array([array is None for array in arrays], pa.bool_()),
    )
    return pa.ExtensionArray.from_storage(tensors.type, storage)
