"""A folder of files, local or remote, in which a file is there as a whole or not at all."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, BinaryIO

import pyarrow as pa

from ray_segformer.outputs._errors import OutputError


class Storage(ABC):
    """The files of an output. It can be sent to workers, together with its credentials.

    A process may be killed at any moment: a reader finds a file's earlier content, its new one, or no file. Two
    processes may write a file of one name at the same time: one of their contents stays, as a whole. Names are paths
    below the folder, with `/`.

    All methods raise `OutputError` if the storage refuses, or cannot be reached.

    Attributes:
        shown: the path or URI without user, password and options, for messages.
        has_locks: whether `create` is atomic: if several processes call it, only one succeeds. On object stores it
            first checks and then writes, which is a race.
    """

    shown: str
    has_locks: bool

    def describe(self, name: str) -> str:
        """Return the path or URI of a file, for messages."""
        return f"{self.shown.rstrip('/')}/{name}" if name else self.shown

    def read_json(self, name: str, advice: str = "") -> dict[str, Any] | None:
        """Return the object in a JSON file; None if the file is not there, or is not whole.

        Args:
            name: the file.
            advice: the end of the error message, if the file is not a JSON object.

        Raises:
            OutputError: it holds something else.
        """
        content = self.read(name)
        if content is None or (not content and not self.has_locks):  # of an object, the upload was cut off
            return None
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{self.describe(name)}: cannot be read as JSON: {error}{advice}") from error
        if not isinstance(found, dict):
            raise OutputError(f"{self.describe(name)}: expected a JSON object, found {str(content[:40])[2:-1]}{advice}")
        return found

    @abstractmethod
    def write(self, name: str, content: bytes | pa.Buffer, *, durable: bool = True) -> None:
        """Write a file, and make its folders.

        Args:
            name: the file.
            content: the whole content.
            durable: flush a local file to disk, so that it is whole also after a power failure. Default: True. For
                many small files, one `flush` at the end is faster.
        """

    def rewrite(self, name: str, content: bytes) -> None:
        """Replace the content of a small file, which stays there all the time. A reader may find it empty.

        Where storage has no locks, only a file that stays there keeps another process from creating it.
        """
        self.write(name, content, durable=False)

    @abstractmethod
    def write_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file of many parts, of which one is in memory at a time. An object is first written to a local disk.

        If an error comes from `parts`, there is no file.
        """

    @abstractmethod
    def flush(self) -> None:
        """Flush to disk what was written."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of this name, and return whether there was none. See `has_locks`."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it is not there. One that is not whole is empty; see `names`."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO | pa.NativeFile:
        """Open a file for reading at any place of it."""

    @abstractmethod
    def names(self, folder: str, *, whole: bool = True) -> list[str]:
        """Return the names of the files below a folder, sorted; none if it is not there.

        Args:
            folder: the folder.
            whole: leave out objects whose upload was cut off, which some stores have. Default: True.
        """

    @abstractmethod
    def entries(self) -> list[str]:
        """Return the names of the files and folders in the folder; none if it is not there."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete files. Those that are not there are passed over."""

    @abstractmethod
    def delete_all(self, *, but: set[str]) -> None:
        """Delete all that is in the folder, but for some files in it. Links are deleted, and not followed."""

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Remove the folder if nothing is in it."""

    @abstractmethod
    def tidy(self) -> None:
        """Delete what processes left that were killed while they wrote."""
