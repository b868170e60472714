"""The classes of the installed Ray, and where it has them. No other module knows about versions of Ray.

| installed Ray | `Predictor` | `BatchMapper` | `BatchPredictor` | `Checkpoint` |
|---|---|---|---|---|
| 2.6 | Ray's | Ray's | Ray's | `ray.air.Checkpoint` |
| 2.7 to 2.55 | Ray's | ours | ours | `ray.train.Checkpoint` |
| 2.56 and newer | ours | ours | ours | `ray.train.Checkpoint` |

A class is `None` here if this package uses its own. `ray_segformer.air` chooses between the two.
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

try:
    from ray.data.util.data_batch_conversion import (
        BatchFormat,
        _convert_batch_type_to_numpy,
        _convert_batch_type_to_pandas,
    )
except ImportError:
    from ray.air.util.data_batch_conversion import (  # type: ignore[assignment]
        BatchFormat,
        _convert_batch_type_to_numpy,
        _convert_batch_type_to_pandas,
    )

try:
    from ray.data._internal.tensor_extensions.arrow import ArrowVariableShapedTensorArray
except ImportError:
    from ray.air.util.tensor_extensions.arrow import (  # type: ignore[attr-defined,no-redef]
        ArrowVariableShapedTensorArray,
    )

try:
    from ray.train.predictor import Predictor, PredictorNotSerializableException
except ImportError:
    Predictor = PredictorNotSerializableException = None

HAS_AIR = Version(ray.__version__) < Version("2.7")  # The last Ray with BatchPredictor and dict checkpoints.

if HAS_AIR:
    from ray.air.checkpoint import Checkpoint
    from ray.data.preprocessors import BatchMapper  # type: ignore[attr-defined]
    from ray.train.batch_predictor import BatchPredictor
else:
    from ray.train import Checkpoint

    BatchMapper = BatchPredictor = None

# Ray 2.6 cannot convert a null in a tensor column, or a null as the first value of a text column, and its
# BatchPredictor passes predictions straight to that conversion. On Ray 2.6, empty values stand for nulls.
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
    "on_driver_node",
    "runs_own_ray",
    "without_directory",
]


def at_directory(cls: type[Checkpoint], path: str | os.PathLike[str]) -> Checkpoint:
    """Return a checkpoint of class `cls` that refers to the local directory `path`.

    `Checkpoint.from_directory` of Ray 2.6 would unpickle a file `.metadata.pkl` in it. This function does not.
    """
    path = os.path.abspath(path)  # Newer versions of Ray take a relative path for a URI.
    return cls(local_path=path) if HAS_AIR else cls(path)


def without_directory(cls: type[Checkpoint], label: str) -> Checkpoint:
    """Return a checkpoint of class `cls` without content on this node's disk. Its repr shows `label`."""
    return cls(data_dict={"path": label}) if HAS_AIR else cls(label, filesystem=pa.fs.LocalFileSystem())


def dict_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the dictionary of a checkpoint that Ray 2.6's `Checkpoint.from_dict` made; None for any other checkpoint.

    If `Checkpoint.set_preprocessor` was called, Ray's own key `_preprocessor` holds the preprocessor.
    """
    if not HAS_AIR:
        return None
    kind, data = checkpoint.get_internal_representation()
    if kind != "data_dict" or "fs_checkpoint" in data:
        return None
    preprocessor = checkpoint.get_preprocessor()
    return data if preprocessor is None else {**data, "_preprocessor": preprocessor}


def convert_to_arrow(batch: dict[str, np.ndarray]) -> pa.Table:
    """Convert a dict of arrays to an Arrow table as Ray Data does, tensor columns included."""
    return BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()


def from_items(items: list[Any], blocks: int) -> ray.data.Dataset:
    """Call `ray.data.from_items` with a number of blocks."""
    name = "override_num_blocks"
    if name not in inspect.signature(ray.data.from_items).parameters:
        name = "parallelism"  # its name in Ray 2.9 and before
    return ray.data.from_items(items, **{name: max(1, blocks)})


def runs_own_ray() -> bool:
    """Return whether this process started the Ray that it is connected to. Its workers run the same Python then."""
    node = ray._private.worker._global_node
    return node is not None and node.is_head()


def on_driver_node(num_cpus: float) -> dict[str, Any]:
    """Return the arguments of `map_batches` with which its tasks run on the driver's node, and reserve CPUs.

    The driver may be on a head node that has no CPUs for tasks. Tasks reserve none then, and two of them run at once.
    """
    parameters = inspect.signature(ray.data.Dataset.map_batches).parameters
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"num_cpus": num_cpus}
    if num_cpus > 0 and not any(node["NodeID"] == here and node["Resources"].get("CPU") for node in nodes):
        options = {"num_cpus": 0, **({"concurrency": 2} if "concurrency" in parameters else {})}
    if "label_selector" in parameters:
        return {**options, "label_selector": {"ray.io/node-id": here}}
    return {**options, "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}


def nullable_tensor_array(arrays: list[np.ndarray | None], dtype: Any, ndim: int) -> pa.ExtensionArray:
    """Convert arrays of any shapes, and nulls, to one variable-shaped tensor column.

    Ray's own conversion pickles a column that mixes arrays and None. Ray then cannot concatenate it with a tensor
    column of another block, so one bad row would end the job.

    Args:
        arrays: an array of `ndim` dimensions, or None, per row.
        dtype: the dtype of the column's elements. It matters only if all rows are null.
        ndim: the number of dimensions.
    """
    if not arrays:  # of which Ray makes no such column
        return nullable_tensor_array([None], dtype, ndim)[:0]
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
