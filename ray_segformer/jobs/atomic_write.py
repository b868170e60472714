"""Atomic writes: a file is complete, or it does not exist."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pyarrow.parquet


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the bytes of a parquet file."""
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer)
    return buffer.getvalue()


def write_atomically(path: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is complete or absent, even if the process is killed.

    Args:
        path: the file, in a folder that exists.
        content: the whole content.
        durable: flush the file and its folder to disk, so that the guarantee also holds for a power failure. Default:
            True.
    """
    # The name is fixed, so that the next write replaces what a killed process left there.
    unfinished = path + "~"
    with open(unfinished, "wb", opener=_open_without_links) as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
    if durable:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_without_links(path: str, flags: int) -> int:
    # A symbolic link that somebody put there must not redirect the write.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)
