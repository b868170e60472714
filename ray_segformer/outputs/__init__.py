"""Outputs: files that are there as a whole or not at all, local or on any storage of pyarrow.

This room has the output folder, its lease and its storage, and the shards that workers write, from which an interrupted
job resumes. Add a column of an output, or another kind of storage, here. This room makes no masks; `jobs` does.
"""

from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._folder import CLASSES_NAME, OutputFolder
from ray_segformer.outputs._local_storage import LocalStorage
from ray_segformer.outputs._mask_output import MaskOutput
from ray_segformer.outputs._mask_rows import ClassAreas, schema_of
from ray_segformer.outputs._shards import Shards, WriteShards, folder_of_shards
from ray_segformer.outputs._single_file import write_file
from ray_segformer.outputs._storage import Storage
from ray_segformer.outputs._storage_at import storage_at

__all__ = [
    "CLASSES_NAME",
    "ClassAreas",
    "LocalStorage",
    "MaskOutput",
    "OutputError",
    "OutputFolder",
    "Shards",
    "Storage",
    "WriteShards",
    "folder_of_shards",
    "schema_of",
    "storage_at",
    "write_file",
]
