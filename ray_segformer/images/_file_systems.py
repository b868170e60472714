"""pyarrow's file system of a URI."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images._uris import escaped_uri

_LEAVES_SIGNALS = "-Xrs"


def file_system_at(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system of a URI, and the path on it.

    Raises:
        ValueError: pyarrow does not know the URI. The text has the URI, with any password.
        OSError: its store cannot be opened.
        ImportError: it needs a library that is not installed.
    """
    if uri.startswith(("hdfs://", "viewfs://")):
        # Java runs in this process. Without this option it takes Ctrl-C from Python, and ends the process at once.
        options = os.environ.get("LIBHDFS_OPTS", "").split()
        if _LEAVES_SIGNALS not in options:
            os.environ["LIBHDFS_OPTS"] = " ".join([*options, _LEAVES_SIGNALS])
    file_system, path = pa.fs.FileSystem.from_uri(escaped_uri(uri))
    return file_system, path
