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
    if kind == _NOTHING and file_system.type_name == "hdfs" and file_system.get_file_info("/").type == _NOTHING:
        raise OSError("HDFS does not answer")
    return kind


def listed(file_system: pa.fs.FileSystem, selector: pa.fs.FileSelector) -> list[pa.fs.FileInfo]:
    """Return what is in a folder.

    Raises:
        OSError: the store does not answer, or the folder is not there and the selector does not allow that.
    """
    infos: list[pa.fs.FileInfo] = file_system.get_file_info(selector)
    if not infos:
        type_at(file_system, selector.base_dir)
    return infos
