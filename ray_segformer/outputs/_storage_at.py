"""Which storage a path or a URI names."""

from __future__ import annotations

from ray_segformer.inputs import InputError, Location
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._hdfs_storage import HdfsStorage
from ray_segformer.outputs._local_storage import LocalStorage
from ray_segformer.outputs._remote_storage import RemoteStorage
from ray_segformer.outputs._storage import Storage


def storage_at(path: str) -> Storage:
    """Return the storage of a local path or a URI.

    Raises:
        OutputError: it is empty, or pyarrow does not know the URI.
    """
    if not path:  # else it would be the current folder
        raise OutputError("the path of the output is empty; name a folder")
    try:
        location = Location(path)
    except InputError as error:
        raise OutputError(str(error)) from error
    if "://" not in path:
        return LocalStorage(path)
    return LocalStorage(location.path) if location.is_local else remote_storage(location)


def remote_storage(location: Location) -> Storage:
    """Return the storage of a folder that is not local."""
    return (HdfsStorage if location.file_system.type_name == "hdfs" else RemoteStorage)(location)
