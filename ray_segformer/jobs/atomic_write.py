"""Files that are there as a whole or not at all."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pyarrow.parquet


def parquet_bytes(table: pa.Table) -> bytes:
    """The content of a parquet file."""
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer)
    return buffer.getvalue()


def write_atomically(path: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file that is there as a whole or not at all, whenever the process is killed.

    Args:
        path: in a folder that exists.
        content: the whole of it.
        durable: wait until the disk has it, so that this holds for a power failure, too.
    """
    # Always the same name: what a killed process left there is replaced, and not left for ever.
    unfinished = path + "~"
    with open(unfinished, "wb", opener=_open_here) as file:
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


def _open_here(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)  # a link may lead elsewhere
