"""Look up what is on a store. Of HDFS, pyarrow says of any error that nothing is there, also if HDFS is away."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs

_NOTHING = pa.fs.FileType.NotFound


def type_at(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    """Return what is at a path: a file, a folder, or nothing.

    Raises:
        OSError: the store does not answer.
    """
    kind = file_system.get_file_info(path).type
    if kind == _NOTHING and file_system.type_name == "hdfs":
        if file_system.get_file_info("/").type == _NOTHING:
            raise OSError("HDFS does not answer")
        kind = file_system.get_file_info(path).type  # It may have been away for the first of these calls.
    return kind


def listed(file_system: pa.fs.FileSystem, selector: pa.fs.FileSelector) -> list[pa.fs.FileInfo]:
    """Return what is in a folder.

    Raises:
        OSError: the store does not answer, or the folder is not there and the selector does not allow that.
    """
    if file_system.type_name == "hdfs" and selector.allow_not_found:
        if type_at(file_system, selector.base_dir) == _NOTHING:
            return []
        # With `allow_not_found`, folders would be left out for which HDFS was away.
        selector = pa.fs.FileSelector(selector.base_dir, recursive=selector.recursive)
    infos: list[pa.fs.FileInfo] = file_system.get_file_info(selector)
    return infos
