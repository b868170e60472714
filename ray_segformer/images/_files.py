"""The files of image cells: local, or on any file system of pyarrow. They are read as a whole, or opened."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images._busy_stores import retried
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._file_systems import file_system_at
from ray_segformer.images._uris import public_uri


def read_file(path: str, limit: int) -> bytes:
    """Return the content of the file at a path or URI.

    Raises:
        ImageError: it cannot be read, or it has more than `limit` bytes.
    """
    with as_image_error("read the file"):
        path = local_path(path)
        if "://" not in path:
            _check_bytes(_size_of_local(path), limit)
            with open(path, "rb") as file:
                return file.read()
        return retried(_read_object, *_object_at(path), limit)


def open_file(path: str) -> Any:
    """Open the file at a path or URI, to be read at any place of it.

    Returns:
        A binary file. Its reads are retried if the store is busy; see `retried`.

    Raises:
        ImageError: it cannot be opened.
    """
    with as_image_error("read the file"):
        path = local_path(path)
        if "://" not in path:
            _size_of_local(path)
            return open(path, "rb")
        file_system, place = _object_at(path)
        return _RetriedFile(retried(file_system.open_input_file, place))


def local_path(path: str) -> str:
    """Return the path of a `file://` URI, also if it is not UTF-8; return any other path or URI as it is."""
    if not path.startswith("file:///") or os.name == "nt":
        return path
    return os.fsdecode(unquote_to_bytes(path[len("file://") :].split("#")[0].split("?")[0]))


class _RetriedFile(contextlib.AbstractContextManager[Any]):
    """A file of a store. A read that fails because the store is busy is retried."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        content: bytes = retried(self._file.read, size)
        return content


def _size_of_local(path: str) -> int:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(f"{path} is a pipe or a device")  # reading it may never end
    return status.st_size


def _object_at(uri: str) -> tuple[pa.fs.FileSystem, str]:
    try:
        return file_system_at(uri)
    except ValueError as error:  # its text has the URI, with any password
        raise OSError(f"{public_uri(uri)}: not a URI that pyarrow's file systems know") from error


def _read_object(file_system: pa.fs.FileSystem, path: str, limit: int) -> bytes:
    with file_system.open_input_file(path) as file:
        _check_bytes(file.size(), limit)
        content: bytes = file.read()
        return content


def _check_bytes(size: int, limit: int) -> None:
    if size > limit:
        raise ImageError(
            f"too large: a file of {size} bytes, above the {limit} that an image within max_pixels can take; if it is "
            "an image, raise the limit with max_pixels= (--max-pixels)"
        )
