"""A single file, at any path or URI, that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid

from ray_segformer.inputs import InputError, Location, readable
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._storage_at import remote_storage


def write_file(path: str, content: bytes) -> str:
    """Write a file, also into a folder to which a job is writing. It replaces one that is there.

    Args:
        path: a local path, or a URI of pyarrow's file systems. Its folder is made.
        content: the whole content.

    Returns:
        The path or URI without user, password and options, for messages.

    Raises:
        OutputError: pyarrow does not know the URI, or the file cannot be written.
    """
    if "://" in path:
        try:
            location = Location(path)
        except InputError as error:
            raise OutputError(str(error)) from error
        if not location.is_local:
            folder, name = posixpath.split(location.path)
            remote_storage(location.at(folder)).write(name, content)
            return location.shown
        path = location.path
    try:
        _write_locally(os.path.abspath(os.path.expanduser(path)), content)
    except OSError as error:
        raise OutputError(f"{readable(path)}: cannot be written: {error.strerror or error}") from error
    return readable(path)


def _write_locally(path: str, content: bytes) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    unfinished = os.path.join(folder, f".{uuid.uuid4().hex}.unfinished")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, os.path.join(folder, name))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
