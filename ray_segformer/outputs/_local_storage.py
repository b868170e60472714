"""A local folder of files that are written as a whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa

from ray_segformer.inputs import readable
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._storage import Storage

_UNFINISHED = ".unfinished"  # readers of parquet pass over names that start with a dot


class LocalStorage(Storage):
    """A local folder. A file is written under another name, flushed to disk, and renamed.

    Nothing is written through symbolic links below the folder. No job makes any; somebody else who can write there may
    have made one to redirect what is written.

    Args:
        path: the folder. Its name need not be UTF-8.

    Attributes:
        path: the absolute path; of a symbolic link to a folder, the path of that folder.
    """

    has_locks = True

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(os.path.expanduser(path))
        self.shown = readable(path)

    def write(self, name: str, content: bytes | pa.Buffer, *, durable: bool = True) -> None:
        """See `Storage`."""
        self._write(name, [content], durable)

    def write_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """See `Storage`."""
        self._write(name, parts, durable=True)

    def _write(self, name: str, parts: Iterable[bytes | pa.Buffer], durable: bool) -> None:
        path = self._at(name)
        with self._errors(name, "written"):
            self._refuse_links(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with self._unfinished_file() as unfinished:
                with open(unfinished, "xb") as file:
                    for part in parts:
                        file.write(part)
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

    def flush(self) -> None:
        """See `Storage`."""
        os.sync()

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        with self._errors(name, "written"):
            os.makedirs(self.path, exist_ok=True)
            try:
                with open(self._at(name), "xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        return True

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        with self._errors(name, "read"):
            try:
                with open(self._at(name), "rb") as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, name: str) -> BinaryIO:
        """See `Storage`."""
        with self._errors(name, "read"):
            return open(self._at(name), "rb")

    def names(self, folder: str, *, whole: bool = True) -> list[str]:
        """See `Storage`. All files are whole."""
        root = self._at(folder)
        return sorted(
            os.path.relpath(os.path.join(above, name), self.path).replace(os.sep, "/")
            for above, _, names in os.walk(root)
            for name in names
        )

    def entries(self) -> list[str]:
        """See `Storage`."""
        with self._errors("", "read"):
            try:
                return sorted(set(os.listdir(self.path)) - {_UNFINISHED})
            except FileNotFoundError:
                return []
            except NotADirectoryError as error:
                raise OutputError(f"{self.shown} is a file, or in one; name a folder") from error

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`. A folder whose last file is deleted goes, too."""
        for name in names:
            path = self._at(name)
            with self._errors(name, "deleted"), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            if "/" in name:
                with contextlib.suppress(OSError):  # there are others
                    os.rmdir(os.path.dirname(path))

    def delete_all(self, *, but: set[str]) -> None:
        """See `Storage`."""
        with self._errors("", "deleted"):
            for entry in os.scandir(self.path):
                if entry.name not in but:
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)

    def remove_if_empty(self) -> None:
        """See `Storage`."""
        with contextlib.suppress(OSError):  # not empty, or a mount point
            os.rmdir(self.path)

    def tidy(self) -> None:
        """See `Storage`."""
        path = self._at(_UNFINISHED)
        if os.path.islink(path):
            os.unlink(path)
        shutil.rmtree(path, ignore_errors=True)

    def _at(self, name: str) -> str:
        return os.path.join(self.path, *name.split("/")) if name else self.path

    @contextlib.contextmanager
    def _errors(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.describe(name)}: cannot be {what}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _unfinished_file(self) -> Iterator[str]:
        """Give a path for a file that is then renamed. It is deleted if that does not happen.

        Each attempt has a path of its own: a task that was declared dead may still be writing.
        """
        self._refuse_links(f"{_UNFINISHED}/x")
        folder = self._at(_UNFINISHED)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, uuid.uuid4().hex)
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _refuse_links(self, name: str) -> None:
        """Raise an `OutputError` if a folder of a file is a symbolic link."""
        path = self.path
        for part in name.split("/")[:-1]:
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise OutputError(
                    f"{readable(path)} is a symbolic link, through which nothing is written; remove it, or start again "
                    "with --overwrite"
                )
